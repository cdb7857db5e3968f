//! How long a call may take: what its tool has, else its server, else the host says. Progress may begin the time anew.

use crate::settings::Limits;
use model::Watch;
use std::time::Duration;
use wire::message::Message;
use wire::scan::Place;

/// The time of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// From its beginning, and again from each progress notification where there is a `most`.
    pub(crate) after: Duration,
    /// All in all.
    pub(crate) most: Option<Duration>,
}

impl Deadline {
    /// A time that nothing extends.
    pub(crate) fn fixed(after: Duration) -> Self {
        Self { after, most: None }
    }

    /// What the call of `message` has at a server with these times of its own.
    pub(crate) fn of(message: &Message, watch: &Watch, limits: &Limits) -> Self {
        let tool = (message.method() == "tools/call" && !watch.tool_timeouts.is_empty())
            .then(|| message.text(Place::Params, "name"))
            .flatten();
        let after = watch.time_for(tool.as_deref()).unwrap_or(limits.call_timeout);
        let most = || watch.most(limits.call_timeout_max).max(after);
        Self { after, most: watch.progress_extends.then(most) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use wire::scan::{Limits as Bounds, Side};

    fn call(method: &str, tool: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"{tool}"}}}}"#);
        Message::parse(Bytes::from(text), Side::Client, &Bounds { bytes: 1 << 20, depth: 64 }).unwrap()
    }

    #[test]
    fn the_tool_goes_before_the_server_and_the_server_before_the_host() {
        let host = Limits::default();
        let watch = |text: &str| serde_json::from_str::<Watch>(text).unwrap();
        let own = watch(r#"{"callTimeout":"30 s","toolTimeouts":{"slow":"10 min"}}"#);
        let after = |message: Message, watch: &Watch| Deadline::of(&message, watch, &host).after.as_secs();
        assert_eq!(after(call("tools/call", "slow"), &own), 600);
        assert_eq!(after(call("tools/call", "other"), &own), 30);
        assert_eq!(after(call("prompts/get", "slow"), &own), 30, "a prompt is no tool");
        assert_eq!(after(call("tools/call", "slow"), &Watch::default()), 300);
        let extended = watch(r#"{"progressExtends":true,"callTimeout":"2 h"}"#);
        assert_eq!(Deadline::of(&call("tools/call", "x"), &extended, &host).most, Some(Duration::from_secs(7200)));
        assert_eq!(Deadline::of(&call("tools/call", "x"), &own, &host).most, None);
    }
}
