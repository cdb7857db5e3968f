//! `Mcp-Param-*`: parameters of a tool that a modern client mirrors into headers. Which ones, what a header must say, and
//! what it says. (E54–E59)

use crate::header;
use crate::message::Message;
use crate::scan::{self, Kind, Place, Span};
use std::borrow::Cow;

/// What every such header's name begins with, in the lower case that HTTP libraries give names in.
pub const PREFIX: &str = "mcp-param-";

/// A parameter that a tool's `inputSchema` annotates with `x-mcp-header`. Made by [`crate::catalogue`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    name: String,
    path: Vec<String>,
}

impl Param {
    /// `name` is what follows `Mcp-Param-`; `path` leads from `arguments` to the value through `properties`.
    pub(crate) fn new(name: String, path: Vec<String>) -> Self {
        Self { name, path }
    }

    /// What follows `Mcp-Param-`, as the annotation spells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As people write it.
    fn shown(&self) -> String {
        format!("params.arguments.{}", self.path.join("."))
    }

    /// The value in the body; `None` where it is absent or null, which no header mirrors.
    fn value(&self, message: &Message) -> Option<(Span, Kind)> {
        let arguments = message.noted(Place::Params, "arguments")?;
        let (mut at, mut kind) = (arguments.value, arguments.kind);
        for step in &self.path {
            if kind != Kind::Object {
                return None;
            }
            (at, kind) = scan::member(message.bytes(), at, step)?;
        }
        (kind != Kind::Null).then_some((at, kind))
    }
}

/// A header that a request came with: what follows `Mcp-Param-` in any case, and the value as received.
pub type Received<N, V> = (N, V);

/// Why the headers of a call are refused with -32020. It names the header and never a value. (E207)
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The body has the value, the headers do not.
    #[error("The Mcp-Param-{name} header is missing; it must mirror {at}.")]
    Missing {
        /// Which header.
        name: String,
        /// Which parameter.
        at: String,
    },
    /// The header is there, the value is null or absent.
    #[error("The Mcp-Param-{name} header is present, but {at} is null or absent.")]
    Unexpected {
        /// Which header.
        name: String,
        /// Which parameter.
        at: String,
    },
    /// They say different things.
    #[error("The Mcp-Param-{name} header does not match {at}.")]
    Different {
        /// Which header.
        name: String,
        /// Which parameter.
        at: String,
    },
    /// The header has characters that none may have, or malformed Base64.
    #[error("The Mcp-Param-{name} header has invalid characters or malformed Base64.")]
    Malformed {
        /// Which header.
        name: String,
    },
    /// Two readers could read two values.
    #[error("The Mcp-Param-{name} header occurs more than once.")]
    Repeated {
        /// Which header.
        name: String,
    },
    /// An object or an array has no form in a header.
    #[error("{at} must be a string, an integer or a boolean: the Mcp-Param-{name} header mirrors it.")]
    NotPlain {
        /// Which header.
        name: String,
        /// Which parameter.
        at: String,
    },
}

/// Whether the headers of a `tools/call` mirror its body (E54, E55). Headers that no parameter asks for are ignored (E56).
pub fn check<N: AsRef<str>, V: AsRef<[u8]>>(
    params: &[Param],
    message: &Message,
    received: &[Received<N, V>],
) -> Result<(), Mismatch> {
    params.iter().try_for_each(|param| check_one(param, message, received))
}

fn check_one<N: AsRef<str>, V: AsRef<[u8]>>(
    param: &Param,
    message: &Message,
    received: &[Received<N, V>],
) -> Result<(), Mismatch> {
    let (name, at) = (param.name.clone(), param.shown());
    let mut own = received.iter().filter(|(given, _)| given.as_ref().eq_ignore_ascii_case(&param.name));
    let header = own.next().map(|(_, value)| value.as_ref());
    if own.next().is_some() {
        return Err(Mismatch::Repeated { name });
    }
    let decoded = header.map(header::decode).transpose().map_err(|_| Mismatch::Malformed { name: name.clone() })?;
    match (param.value(message), decoded) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Mismatch::Unexpected { name, at }),
        (Some((_, Kind::Object | Kind::Array)), _) => Err(Mismatch::NotPlain { name, at }),
        (Some(_), None) => Err(Mismatch::Missing { name, at }),
        (Some((value, kind)), Some(said)) if says(message, value, kind, &said) => Ok(()),
        (Some(_), Some(_)) => Err(Mismatch::Different { name, at }),
    }
}

/// Strings and booleans to the letter, numbers by value, whatever their size and spelling.
fn says(message: &Message, value: Span, kind: Kind, said: &str) -> bool {
    match kind {
        Kind::Number => {
            let body = Decimal::parse(message.raw(value));
            body.is_some() && body == Decimal::parse(said.as_bytes())
        }
        _ => plain(message, value, kind).is_some_and(|body| body == said),
    }
}

/// A value as a header carries it, before it is encoded; `None` for what has no such form.
fn plain(message: &Message, value: Span, kind: Kind) -> Option<Cow<'_, str>> {
    match kind {
        Kind::String => Some(scan::text(message.bytes(), value)),
        Kind::True => Some(Cow::Borrowed("true")),
        Kind::False => Some(Cow::Borrowed("false")),
        Kind::Number => std::str::from_utf8(message.raw(value)).ok().map(Cow::Borrowed),
        Kind::Object | Kind::Array | Kind::Null => None,
    }
}

/// The headers that a `tools/call` to a modern HTTP server carries: name and encoded value. (E59)
pub fn headers(params: &[Param], message: &Message) -> Vec<(String, String)> {
    let mirrored = |param: &Param| {
        let (value, kind) = param.value(message)?;
        let text = plain(message, value, kind)?;
        let text = match kind {
            Kind::Number => {
                Cow::Owned(Decimal::parse(text.as_bytes()).and_then(|n| n.integer()).unwrap_or(text.into_owned()))
            }
            _ => text,
        };
        Some((format!("Mcp-Param-{}", param.name), header::encode(&text)))
    };
    params.iter().filter_map(mirrored).collect()
}

/// A JSON number by its value: sign, significant digits without zeros at either end, and the power of ten that they are
/// multiplied by. Equal values have equal parts, of any size.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    power: i64,
}

/// Digits that an integer may have when it is written out.
const WRITTEN_OUT: usize = 64;

impl Decimal {
    /// Of text in the grammar of JSON numbers.
    fn parse(text: &[u8]) -> Option<Self> {
        let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&text[..at], exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) => (&mantissa[..at], Some(&mantissa[at + 1..])),
            None => (mantissa, None),
        };
        let all_digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        let leading_zero = whole.len() > 1 && whole[0] == b'0';
        if !all_digits(whole) || leading_zero || !fraction.is_none_or(all_digits) {
            return None;
        }
        let fraction = fraction.unwrap_or_default();
        let mut digits = [whole, fraction].concat();
        let mut power = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            power = power.checked_add(1)?;
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        if digits.is_empty() {
            return Some(Self { negative: false, digits, power: 0 });
        }
        Some(Self { negative, digits, power })
    }

    /// Written without fraction and exponent, where it is an integer of a sane length.
    fn integer(&self) -> Option<String> {
        if self.digits.is_empty() {
            return Some("0".to_owned());
        }
        let zeros = usize::try_from(self.power).ok().filter(|zeros| zeros + self.digits.len() <= WRITTEN_OUT)?;
        let mut out = String::from(if self.negative { "-" } else { "" });
        out.extend(self.digits.iter().map(|digit| char::from(*digit)));
        out.extend(std::iter::repeat_n('0', zeros));
        Some(out)
    }
}

fn exponent(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Limits, Side};
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };

    fn call(arguments: &str) -> Message {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        Message::parse(Bytes::from(text), Side::Client, &LIMITS).unwrap()
    }

    fn region() -> Vec<Param> {
        vec![Param::new("Region".to_owned(), vec!["region".to_owned()])]
    }

    fn checked(arguments: &Value, headers: &[(&str, &str)]) -> Result<(), Mismatch> {
        check(&region(), &call(&arguments.to_string()), headers)
    }

    #[test]
    fn e54_the_table_of_the_specification() {
        let west = json!({"region":"west"});
        assert_eq!(checked(&west, &[("region", "west")]), Ok(()));
        assert_eq!(checked(&west, &[("REGION", " =?base64?d2VzdA==?= ")]), Ok(()));
        let (name, at) = ("Region".to_owned(), "params.arguments.region".to_owned());
        for (arguments, headers, why) in [
            (&west, vec![], Mismatch::Missing { name: name.clone(), at: at.clone() }),
            (&west, vec![("region", "West")], Mismatch::Different { name: name.clone(), at: at.clone() }),
            (&west, vec![("region", "=?base64?d2VzdA=?=")], Mismatch::Malformed { name: name.clone() }),
            (&west, vec![("region", "caf\u{e9}")], Mismatch::Malformed { name: name.clone() }),
            (&west, vec![("region", "west"), ("Region", "west")], Mismatch::Repeated { name: name.clone() }),
            (
                &json!({"region":null}),
                vec![("region", "x")],
                Mismatch::Unexpected { name: name.clone(), at: at.clone() },
            ),
            (&json!({}), vec![("region", "")], Mismatch::Unexpected { name: name.clone(), at: at.clone() }),
            (&json!({"region":["west"]}), vec![], Mismatch::NotPlain { name: name.clone(), at: at.clone() }),
            (&json!({"region":{}}), vec![("region", "{}")], Mismatch::NotPlain { name, at }),
        ] {
            assert_eq!(checked(arguments, &headers), Err(why), "{arguments} {headers:?}");
        }
        for nothing in [json!({"region":null}), json!({}), json!([]), json!("region"), json!(null)] {
            assert_eq!(checked(&nothing, &[]), Ok(()), "{nothing}");
        }
    }

    #[test]
    fn e56_headers_that_no_parameter_asks_for_are_ignored() {
        assert_eq!(checked(&json!({}), &[("other", "\u{1}"), ("other", "x")]), Ok(()));
    }

    #[test]
    fn e55_integers_are_compared_by_value() {
        for (body, header, same) in [
            ("42", "42.0", true),
            ("42.0", "42", true),
            ("42", "4.2e1", true),
            ("-0", "0", true),
            ("0.0", "-0", true),
            ("1e400", "10e399", true),
            ("9007199254740993", "9007199254740993", true),
            ("9007199254740993", "9007199254740992", false),
            ("123456789012345678901234567890", "123456789012345678901234567891", false),
            ("1e9223372036854775807", "1e9223372036854775807", true),
            ("42", "042", false),
            ("42", "+42", false),
            ("42", "0x2a", false),
            ("42", "42.", false),
            ("42", "4 2", false),
            ("42", "", false),
            ("1", "true", false),
            ("true", "true", true),
            ("true", "True", false),
            ("false", "0", false),
            (r#""42""#, "42", true),
            (r#""42""#, "42.0", false),
        ] {
            let message = call(&format!(r#"{{"region":{body}}}"#));
            assert_eq!(check(&region(), &message, &[("region", header)]).is_ok(), same, "{body} {header}");
        }
    }

    #[test]
    fn e64_nested_values_are_read_at_their_path_only() {
        let deep = vec![Param::new("Deep".to_owned(), vec!["a".to_owned(), "b c".to_owned()])];
        assert_eq!(check(&deep, &call(r#"{"a":{"b\u0020c":"x"},"b c":"y"}"#), &[("deep", "x")]), Ok(()));
        for absent in [r#"{"b c":"x"}"#, r#"{"a":"x"}"#, r#"{"a":[{"b c":"x"}]}"#] {
            assert!(check::<&str, &str>(&deep, &call(absent), &[]).is_ok(), "{absent}");
            assert!(check(&deep, &call(absent), &[("deep", "x")]).is_err(), "{absent}");
        }
    }

    #[test]
    fn e207_a_mismatch_tells_no_value() {
        let said = checked(&json!({"region":"secret-a"}), &[("region", "secret-b")]).unwrap_err().to_string();
        assert!(!said.contains("secret"), "{said}");
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            "\\PC{0,20}|[ -~\t\r\n]{0,20}".prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn e59_what_we_send_is_what_we_accept(path in prop::collection::vec("\\PC{0,6}", 1..4), value in value(), other in value()) {
            let params = vec![Param::new("P".to_owned(), path.clone())];
            let wrap = |value: &Value| path.iter().rev().fold(value.clone(), |inner, name| json!({ name: inner }));
            let message = call(&wrap(&value).to_string());
            let sent = headers(&params, &message);
            prop_assert_eq!(sent.len(), 1);
            let received = vec![(sent[0].0.strip_prefix("Mcp-Param-").unwrap(), sent[0].1.as_str())];
            prop_assert_eq!(check(&params, &message, &received), Ok(()));
            let differs = call(&wrap(&other).to_string());
            let alike = value.to_string().trim_matches('"') == other.to_string().trim_matches('"');
            prop_assert!(alike || check(&params, &differs, &received).is_err());
        }

        #[test]
        fn e55_a_decimal_is_its_value(whole in any::<i64>(), zeros in 0_usize..20, shift in 0_usize..20) {
            let plain = Decimal::parse(whole.to_string().as_bytes()).unwrap();
            let fraction = format!("{whole}.{}", "0".repeat(zeros + 1));
            let scaled = format!("{whole}{}e-{shift}", if whole == 0 { String::new() } else { "0".repeat(shift) });
            prop_assert_eq!(Decimal::parse(fraction.as_bytes()).unwrap(), plain.clone());
            prop_assert_eq!(Decimal::parse(scaled.as_bytes()).unwrap(), plain.clone());
            prop_assert_eq!(plain.integer().unwrap(), whole.to_string());
            let next = Decimal::parse((i128::from(whole) + 1).to_string().as_bytes()).unwrap();
            prop_assert_ne!(next, plain);
        }
    }
}
