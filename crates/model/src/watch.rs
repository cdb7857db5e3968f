//! How long a server's calls may take, and how it is watched. Everything is optional: what is not given is the host's.

use crate::measure;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time above 0 and below a century, written with its unit: `500 ms`, `10 s`, `15 min`, `1 h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

/// A text that is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a time above 0 like \"500 ms\", \"10 s\", \"15 min\" or \"1 h\"")]
pub struct BadSpan;

impl Span {
    /// The time.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(time: Duration) -> Self {
        Self(time)
    }
}

impl FromStr for Span {
    type Err = BadSpan;
    fn from_str(text: &str) -> Result<Self, BadSpan> {
        measure::time(text).map(Self).ok_or(BadSpan)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&measure::show_time(self.0))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Whether a server is asked with `ping` whether it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ping {
    /// Until it is found to ignore it.
    #[default]
    Auto,
    /// Never: a list is asked for instead.
    Never,
}

/// One server's own times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Watch {
    /// How long a call may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_timeout: Option<Span>,
    /// How long a call of a tool may take, by the tool's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tool_timeouts: BTreeMap<String, Span>,
    /// Whether the time of a call begins anew with each progress notification.
    #[serde(skip_serializing_if = "is_default")]
    pub progress_extends: bool,
    /// How long a call may take then, all in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_timeout_max: Option<Span>,
    /// Whether `ping` is used.
    #[serde(skip_serializing_if = "is_default")]
    pub ping: Ping,
    /// Silence after which the server is asked whether it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Span>,
    /// How long its answer to that may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_deadline: Option<Span>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Watch {
    /// Whether nothing was given.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What a call has that is no call of a tool, or one of `tool`; nothing where the host decides.
    pub fn time_for(&self, tool: Option<&str>) -> Option<Duration> {
        let own = tool.and_then(|tool| self.tool_timeouts.get(tool));
        own.copied().or(self.call_timeout).map(Span::get)
    }

    /// How long a call may take that progress extends; `host` where nothing was given.
    pub fn most(&self, host: Duration) -> Duration {
        self.call_timeout_max.map_or(host, Span::get)
    }

    /// The longest that any call may take, where the host gives `time`, and `most` to calls that progress extends.
    pub fn longest(&self, time: Duration, most: Duration) -> Duration {
        let other = self.call_timeout.map_or(time, Span::get);
        let longest = self.tool_timeouts.values().copied().map(Span::get).fold(other, Duration::max);
        if self.progress_extends { longest.max(self.most(most)) } else { longest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for (text, ms) in
            [("500 ms", 500), ("10 s", 10_000), ("15 min", 900_000), ("1 h", 3_600_000), ("1500 ms", 1500)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.get(), span.to_string().as_str()), (Duration::from_millis(ms), text));
        }
        assert_eq!("2m".parse::<Span>().unwrap().to_string(), "2 min");
        for wrong in ["", "5", "s", "0 s", "-1 s", "1 day", "99999999999999 h", "1.5 s"] {
            assert_eq!(wrong.parse::<Span>(), Err(BadSpan), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_given_is_not_stored_and_what_is_unknown_is_refused() {
        assert_eq!(serde_json::to_string(&Watch::default()).unwrap(), "{}");
        let text = r#"{"callTimeout":"30 s","toolTimeouts":{"slow":"10 min"},"progressExtends":true,"callTimeoutMax":"1 h","ping":"never","quiet":"1 min","probeDeadline":"5 s"}"#;
        let watch: Watch = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&watch).unwrap(), text);
        assert_eq!(watch.time_for(Some("slow")), Some(Duration::from_secs(600)));
        assert_eq!(watch.time_for(Some("other")), Some(Duration::from_secs(30)));
        assert_eq!(watch.time_for(None), Some(Duration::from_secs(30)));
        assert_eq!(Watch::default().time_for(Some("slow")), None);
        let (host, most) = (Duration::from_secs(300), Duration::from_secs(7200));
        assert_eq!(watch.longest(host, most), Duration::from_secs(3600));
        assert_eq!(Watch { progress_extends: false, ..watch }.longest(host, most), Duration::from_secs(600));
        assert_eq!(Watch { progress_extends: true, ..Watch::default() }.longest(host, most), most);
        assert_eq!(Watch::default().longest(host, most), host);
        for wrong in
            [r#"{"callTimeout":"0 s"}"#, r#"{"callTimeout":5}"#, r#"{"timeout":"5 s"}"#, r#"{"ping":"always"}"#]
        {
            assert!(serde_json::from_str::<Watch>(wrong).is_err(), "{wrong}");
        }
    }
}
