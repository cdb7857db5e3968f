//! The trace that a call belongs to, by W3C Trace Context: what its client said, read strictly. What cannot be read is as
//! if it were not there. Nothing here changes what a server is sent: `traceparent`, `tracestate` and `baggage` in `_meta`
//! pass through as they came (E14).

use http::HeaderMap;
use std::time::Duration;
use supervisor::{Outcome, Stage};
use wire::message::Message;
use wire::scan::Place;

/// Longest `tracestate` that is kept, bytes, as the specification asks for at least.
const STATE_BYTES: usize = 512;

/// Where a call stands in its client's trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The client's span.
    pub parent: [u8; 8],
    /// The client records it.
    pub sampled: bool,
    /// What other systems added, as it came.
    pub state: Option<String>,
}

/// One call that ended, for whoever collects traces. No principal, no argument, no result.
#[derive(Clone, Debug)]
pub struct CallSpan {
    /// What the client said; without it the call is the root of a trace of its own.
    pub context: Option<TraceContext>,
    /// The hosted server.
    pub server: String,
    /// The method, shortened.
    pub method: String,
    /// The tool, shortened.
    pub tool: Option<String>,
    /// Number of the request on the server's pipe, if it got there.
    pub call: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// When, Unix nanoseconds.
    pub ended: u64,
    /// What its time was spent on, in order and without gaps.
    pub stages: Vec<(Stage, Duration)>,
}

impl TraceContext {
    /// From the headers of a request.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let (parent, None) = (parents.next()?, parents.next()) else { return None };
        let states: Vec<&str> = headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok()).collect();
        Self::parse(parent.to_str().ok()?, Some(states.join(",")))
    }

    /// From the metadata of a request.
    pub(crate) fn of_message(message: &Message) -> Option<Self> {
        let parent = message.text(Place::Meta, "traceparent")?;
        let state = message.text(Place::Meta, "tracestate").map(std::borrow::Cow::into_owned);
        Self::parse(&parent, state)
    }

    /// `version-trace-parent-flags`, in small hexadecimal digits. A later version may say more at the end.
    fn parse(parent: &str, state: Option<String>) -> Option<Self> {
        let (version, rest) = (parent.get(..2)?, parent.get(2..)?);
        let [version] = hex::<1>(version)?;
        let known = rest.get(..53)?;
        let more = &rest[53..];
        if version == 0xff || (version == 0 && !more.is_empty()) || !(more.is_empty() || more.starts_with('-')) {
            return None;
        }
        let mut parts = known.strip_prefix('-')?.split('-');
        let (trace, parent, flags) = (hex(parts.next()?)?, hex(parts.next()?)?, hex::<1>(parts.next()?)?);
        if parts.next().is_some() || trace == [0; 16] || parent == [0; 8] {
            return None;
        }
        let readable = |state: &String| {
            !state.is_empty() && state.len() <= STATE_BYTES && state.bytes().all(|b| (0x20..0x7f).contains(&b))
        };
        Some(Self { trace, parent, sampled: flags[0] & 1 == 1, state: state.filter(readable) })
    }
}

/// Exactly `N` bytes in small hexadecimal digits.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_as_written() {
        let context = TraceContext::parse(GOOD, Some("a=1,b=2".to_owned())).unwrap();
        assert_eq!(context.trace[..2], [0x4b, 0xf9]);
        assert_eq!(context.parent, [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert!(context.sampled && context.state.as_deref() == Some("a=1,b=2"));
        let off = TraceContext::parse(&GOOD.replace("-01", "-02"), None).unwrap();
        assert!(!off.sampled && off.state.is_none());
        assert!(TraceContext::parse(&GOOD.replace("00-4", "cc-4").replace("-01", "-01-what-follows"), None).is_some());
        let long = "x".repeat(513);
        assert!(TraceContext::parse(GOOD, Some(long)).unwrap().state.is_none());
    }

    #[test]
    fn what_is_not_quite_a_context_is_none() {
        for bad in [
            "".to_owned(),
            "00".to_owned(),
            GOOD.to_uppercase(),
            GOOD.replace("00-4", "ff-4"),
            format!("{GOOD}-"),
            format!("{GOOD}x"),
            GOOD[..54].to_owned(),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("00-4", "cc-4").replace("-01", "-01x"),
            format!(" {GOOD}"),
            GOOD.replace("4bf92f", "4bé92"),
        ] {
            assert_eq!(TraceContext::parse(&bad, None), None, "{bad}");
        }
        let mut twice = HeaderMap::new();
        twice.append("traceparent", GOOD.parse().unwrap());
        assert!(TraceContext::of_headers(&twice).is_some());
        twice.append("traceparent", GOOD.parse().unwrap());
        assert!(TraceContext::of_headers(&twice).is_none());
    }
}
