//! Validated names. Holding one proves that it is safe in a path, a URL, a log line and a header.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a valid name: use 1 to 64 of the characters a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter or digit"
)]
pub struct BadName {
    text: String,
}

fn check(text: &str) -> Result<(), BadName> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric();
    if fits { Ok(()) } else { Err(BadName { text: text.chars().take(80).collect() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A hosted server's name, as it stands in its address `/mcp/<server>`.
    ServerName
}

name! {
    /// Who acts: a person, a machine client, an operator.
    Principal
}

impl Principal {
    /// Whoever calls where no token is asked for. All such callers are one principal.
    pub fn anonymous() -> Self {
        Self("anonymous".to_owned())
    }

    /// The operator at the operator socket.
    pub fn operator() -> Self {
        Self("operator".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::ServerName;

    #[test]
    fn names_that_could_escape_are_refused() {
        for bad in ["", ".", "..", "a/b", "-x", "a b", "é", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad:?}");
        }
        for good in ["a", "server-everything", "My.Server_2"] {
            assert_eq!(good.parse::<ServerName>().unwrap().as_str(), good);
        }
    }
}
