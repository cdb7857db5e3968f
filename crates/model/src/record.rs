//! What the ledger says: one JSON object for each record. The bytes are hashed as they are stored, so nobody has to write them in
//! one way only; what is absent is not written.
//!
//! Never in a record: tokens, secrets, arguments, results. Of arguments and results there are lengths and salted commitments.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The version of the records that are written.
pub const VERSION: u32 = 1;
/// The longest record, bytes.
pub const MAX_BYTES: usize = 16 << 10;
/// Characters of a name that a stranger chose which are kept.
const NAME_CHARS: usize = 128;
/// Names of tools in one list.
const NAMES: usize = 16;

type Text<'a> = Cow<'a, str>;

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<'a> {
    /// [`VERSION`] of the writer. A reader that knows a lower one may show it and must not interpret it.
    pub v: u32,
    /// Milliseconds since 1970, on the clock of the host.
    pub ms: i64,
    /// What happened.
    #[serde(flatten, borrow)]
    pub what: What<'a>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
pub enum What<'a> {
    /// A call is about to reach a server.
    #[serde(rename = "call.start", borrow)]
    CallStart(Box<CallStart<'a>>),
    /// A call has ended. There is one for each start.
    #[serde(rename = "call.end", borrow)]
    CallEnd(CallEnd<'a>),
    /// A request was turned away before it reached a server.
    #[serde(rename = "call.denied", borrow)]
    CallDenied(Box<CallDenied<'a>>),
    /// An operator's command is about to be done.
    #[serde(rename = "operator.start", borrow)]
    OperatorStart(OperatorStart<'a>),
    /// An operator's command was done, or failed.
    #[serde(rename = "operator.end", borrow)]
    OperatorEnd(OperatorEnd<'a>),
    /// An operator's command has changed a server.
    #[serde(rename = "server.set", borrow)]
    ServerSet(ServerSet<'a>),
    /// A process of a server started, or ended.
    #[serde(rename = "process", borrow)]
    Process(Process<'a>),
    /// It was found out how a server stands.
    #[serde(rename = "verdict", borrow)]
    Verdict(Verdict<'a>),
    /// A server shows other tools than before.
    #[serde(rename = "tools.changed", borrow)]
    ToolsChanged(Box<ToolsChanged<'a>>),
    /// The ledger about itself.
    #[serde(rename = "log", borrow)]
    Log(LogEvent<'a>),
}

/// Who calls, under a name that only the host's erasable keys lead back from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Who<'a> {
    /// Pseudonym of the principal.
    #[serde(borrow)]
    pub sub: Text<'a>,
    /// How it was known: `token`, `open`, `socket`.
    #[serde(borrow)]
    pub by: Text<'a>,
    /// The token's public id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Text<'a>>,
}

/// A commitment to a content that is not in the record: HMAC-SHA-256 under a key that can be erased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Committed<'a> {
    /// The commitment, hexadecimal. Over the canonical form (RFC 8785) where the content is JSON.
    #[serde(borrow)]
    pub hmac: Text<'a>,
    /// Bytes of the content as it was sent.
    pub len: u64,
    /// Where it is kept, encrypted, if the operator wants that: a file's name and a place in it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Text<'a>>,
}

/// `call.start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallStart<'a> {
    /// Joins start and end; used once in a log.
    pub call: CallId,
    /// The call whose questions to its client this one answers, or whose end it fetches: the server goes on with that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<CallId>,
    /// Who calls.
    #[serde(borrow)]
    pub who: Who<'a>,
    /// The server's name.
    #[serde(borrow)]
    pub server: Text<'a>,
    /// Its generation.
    pub generation: u64,
    /// The instance's number, and its process.
    pub instance: u64,
    /// The process; absent for remote servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The era of the client: `legacy` or `modern`.
    #[serde(borrow)]
    pub era: Text<'a>,
    /// What the client says that it is: name, `/` and version.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Text<'a>>,
    /// The method.
    #[serde(borrow)]
    pub method: Text<'a>,
    /// The tool, resource or prompt that it names.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// The arguments.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Committed<'a>>,
    /// The session, as a hash that joins its records.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Text<'a>>,
    /// What this record waits for, and the one of its end: `strict` (the disk) or `async` (nothing). Absent: the kernel.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Text<'a>>,
    /// W3C `traceparent` of the client.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Text<'a>>,
}

/// `call.end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallEnd<'a> {
    /// Of the start.
    pub call: CallId,
    /// How it ended.
    pub outcome: Ended,
    /// staithe's short name of the error, or the server's code.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Text<'a>>,
    /// The answer as its client gets it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Committed<'a>>,
    /// Microseconds from the start's record to this one.
    pub micros: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The server answered with a result.
    Ok,
    /// The server answered that its tool failed.
    ToolError,
    /// The server answered with an error.
    ServerError,
    /// The server ended, or nothing of it could be read.
    ServerGone,
    /// staithe could not do its part.
    HostError,
    /// The request was wrong, or over a limit of its caller.
    CallerError,
    /// The client was asked something; its next request goes on with the call, under another id.
    Asked,
    /// The client took it back or left.
    Cancelled,
    /// The server did not answer in time.
    Deadline,
    /// Nobody knows: the daemon ended while it ran.
    Unknown,
}

/// `call.denied`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallDenied<'a> {
    /// Who asked, where that is known.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Who<'a>>,
    /// The server that was asked for.
    #[serde(borrow)]
    pub server: Text<'a>,
    /// staithe's short name of the reason.
    #[serde(borrow)]
    pub reason: Text<'a>,
    /// The method, where it was read.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Text<'a>>,
    /// What it names.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// How many of the same kind this stands for: those of one second are one record.
    pub count: u64,
}

/// `operator.start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorStart<'a> {
    /// Joins start and end.
    pub act: CallId,
    /// Who: the user of the socket, for instance.
    #[serde(borrow)]
    pub operator: Text<'a>,
    /// Through which door.
    #[serde(borrow)]
    pub door: Text<'a>,
    /// The command's name.
    #[serde(borrow)]
    pub command: Text<'a>,
    /// What it is about: a server, the pseudonym of a principal, a token's id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Text<'a>>,
    /// Why, in the operator's words.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Text<'a>>,
}

/// `operator.end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorEnd<'a> {
    /// Of the start.
    pub act: CallId,
    /// Whether it is known to have been done.
    pub done: bool,
    /// What it made: the public id of a token.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Text<'a>>,
    /// Why not.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Text<'a>>,
}

/// `server.set`: what an operator's command made of a server. Between the start and the end of the command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerSet<'a> {
    /// Of the start.
    pub act: CallId,
    /// The server's name.
    #[serde(borrow)]
    pub server: Text<'a>,
    /// Its generation from here on; absent where it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Digest of what it is from here on, hexadecimal. No secret is in what is digested: a change of a secret alone is another
    /// generation with the same digest.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Text<'a>>,
}

/// `process`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process<'a> {
    /// The server's name.
    #[serde(borrow)]
    pub server: Text<'a>,
    /// The generation that it was started as; absent where it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The instance's number.
    pub instance: u64,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How it ended; absent where it started.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Text<'a>>,
    /// Why it ended: `exit` (by itself), `limit` (it took more than it may), `wedged`, `keeper` (with the process that held it),
    /// `asked`, or `left` (no server wanted it when a daemon started).
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Text<'a>>,
}

/// `verdict`: how a server stands, where something follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict<'a> {
    /// The server's name.
    #[serde(borrow)]
    pub server: Text<'a>,
    /// The number of the instance, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// `wedged`: it will never answer, and is replaced. `crash_looping`, `quarantined`: it died so often that callers are turned
    /// away. `released`: that is over.
    #[serde(borrow)]
    pub verdict: Text<'a>,
    /// What was seen.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Text<'a>>,
}

/// `tools.changed`: a server shows other tools, or describes them otherwise, than when its list was read last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolsChanged<'a> {
    /// The server's name.
    #[serde(borrow)]
    pub server: Text<'a>,
    /// The number of the instance that said so.
    pub instance: u64,
    /// Digest of the list before, hexadecimal; absent where none was read before.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Text<'a>>,
    /// Digest of the list now.
    #[serde(borrow)]
    pub now: Text<'a>,
    /// Tools that are new.
    #[serde(borrow)]
    pub added: Names<'a>,
    /// Tools that are gone.
    #[serde(borrow)]
    pub removed: Names<'a>,
    /// Tools whose definition is another: name, description, schema, or anything else in it.
    #[serde(borrow)]
    pub changed: Names<'a>,
}

/// Some of many names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Names<'a> {
    /// How many there are.
    pub count: u64,
    /// The first of them, at most 16.
    #[serde(borrow)]
    pub names: Vec<Text<'a>>,
}

impl<'a> Names<'a> {
    /// Of all of these.
    pub fn of(all: impl Iterator<Item = &'a str>) -> Self {
        let mut names = Self::default();
        for name in all {
            names.count += 1;
            if names.names.len() < NAMES {
                names.names.push(named(name));
            }
        }
        names
    }
}

/// What the ledger says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LogEvent<'a> {
    /// The first record of a log.
    Began {
        /// The last checkpoint of the log that this one follows, if that was lost.
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        after: Option<Text<'a>>,
    },
    /// Other keys sign from here on, and the old ones no more.
    Keys {
        /// The new public keys (C2SP verifier keys).
        #[serde(borrow)]
        vkeys: Vec<Text<'a>>,
    },
    /// A daemon writes from here on.
    Opened {
        /// Its number among all daemons of this state directory.
        epoch: u64,
        /// staithe's version.
        #[serde(borrow)]
        version: Text<'a>,
        /// Digest of the configuration that is in effect, without secrets, hexadecimal.
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        config: Option<Text<'a>>,
        /// The one of the last daemon, where that had another configuration.
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        config_before: Option<Text<'a>>,
        /// Digest of all servers with their generations: servers may have been changed while no daemon ran.
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        servers: Option<Text<'a>>,
    },
    /// The daemon stops in order.
    Closed {},
    /// Nothing else was new for a while.
    Heartbeat {},
    /// Records are refused from here on, and with them calls.
    Refusing {
        /// Why.
        #[serde(borrow)]
        why: Text<'a>,
    },
    /// They are taken again.
    TakenAgain {
        /// How many were refused.
        refused: u64,
    },
    /// The operator wants no records of calls from here on, until the next daemon says otherwise.
    CallsOff {},
    /// Calls were made that no record speaks of: the disk was full, and the operator wants them to go on.
    Unrecorded {
        /// How many.
        calls: u64,
    },
    /// Things happened to processes that no record speaks of: nothing could be recorded for too long.
    Missed {
        /// How many.
        lives: u64,
    },
    /// The clock was set: records before this one have other times.
    ClockSet {
        /// By how many milliseconds, forward.
        by_ms: i64,
    },
}

/// The number of a call, or of an operator's act: that of the daemon, and within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CallId {
    /// Number of the daemon among all of this state directory.
    pub epoch: u64,
    /// Number of the call among those of the daemon.
    pub number: u64,
}

/// A text that is no [`CallId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a call's id is two numbers, like 3-41")]
pub struct BadCallId;

impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl From<CallId> for String {
    fn from(id: CallId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for CallId {
    type Error = BadCallId;

    fn try_from(text: String) -> Result<Self, BadCallId> {
        text.parse()
    }
}

impl std::str::FromStr for CallId {
    type Err = BadCallId;

    fn from_str(text: &str) -> Result<Self, BadCallId> {
        let (epoch, number) = text.split_once('-').ok_or(BadCallId)?;
        let id = Self { epoch: epoch.parse().map_err(|_| BadCallId)?, number: number.parse().map_err(|_| BadCallId)? };
        // One spelling: what joins records is compared as text, too.
        if id.to_string() == text { Ok(id) } else { Err(BadCallId) }
    }
}

/// A record cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It is longer than [`MAX_BYTES`].
    #[error("a record of {len} bytes is longer than {MAX_BYTES}")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// It is no JSON.
    #[error("a record could not be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl<'a> Record<'a> {
    /// A record of now.
    pub fn new(ms: i64, what: What<'a>) -> Self {
        Self { v: VERSION, ms, what }
    }

    /// The bytes that are stored.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = Vec::with_capacity(512);
        serde_json::to_writer(&mut bytes, self)?;
        match bytes.len() {
            len if len > MAX_BYTES => Err(EncodeError::TooLong { len }),
            _ => Ok(bytes),
        }
    }

    /// Reads what was stored. Fields that are not known are passed over.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// A name that a stranger chose, as it may stand in a record: short, and nothing in it that a terminal obeys.
pub fn named(name: &str) -> Cow<'_, str> {
    // Marks of direction would have a list show other words than there are.
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain = |c: char| !c.is_control() && !turns(c);
    if name.chars().all(plain) && name.chars().nth(NAME_CHARS).is_none() {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().take(NAME_CHARS).map(|c| if plain(c) { c } else { '\u{fffd}' }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> CallStart<'static> {
        CallStart {
            call: CallId { epoch: 3, number: 41 },
            follows: None,
            who: Who { sub: "p:8f3c".into(), by: "token".into(), token: Some("tk_1".into()) },
            server: "files".into(),
            generation: 2,
            instance: 7,
            pid: Some(4711),
            client: Some("claude-code/2.1".into()),
            era: "modern".into(),
            method: "tools/call".into(),
            name: Some("read".into()),
            args: Some(Committed { hmac: "00ff".into(), len: 12, kept: None }),
            session: None,
            mode: Some("strict".into()),
            trace: None,
        }
    }

    #[test]
    fn records_read_back_the_same_and_their_form_is_fixed() {
        let all = [
            (
                What::CallStart(Box::new(start())),
                r#"{"v":1,"ms":5,"t":"call.start","call":"3-41","who":{"sub":"p:8f3c","by":"token","token":"tk_1"},"server":"files","generation":2,"instance":7,"pid":4711,"era":"modern","client":"claude-code/2.1","method":"tools/call","name":"read","args":{"hmac":"00ff","len":12},"mode":"strict"}"#,
            ),
            (
                What::CallEnd(CallEnd {
                    call: CallId { epoch: 3, number: 41 },
                    outcome: Ended::ToolError,
                    error: None,
                    result: None,
                    micros: 1200,
                }),
                r#"{"v":1,"ms":5,"t":"call.end","call":"3-41","outcome":"tool_error","micros":1200}"#,
            ),
            (
                What::Log(LogEvent::Refusing { why: "full".into() }),
                r#"{"v":1,"ms":5,"t":"log","event":"refusing","why":"full"}"#,
            ),
            (What::Log(LogEvent::Heartbeat {}), r#"{"v":1,"ms":5,"t":"log","event":"heartbeat"}"#),
        ];
        for (what, text) in all {
            let record = Record::new(5, what);
            let bytes = record.encode().unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), text);
            assert_eq!(Record::decode(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn what_is_no_call_has_a_fixed_form_too() {
        let all = [
            (
                What::CallDenied(Box::new(CallDenied {
                    who: None,
                    server: "files".into(),
                    reason: "no_token".into(),
                    method: None,
                    name: None,
                    count: 7,
                })),
                r#"{"v":1,"ms":5,"t":"call.denied","server":"files","reason":"no_token","count":7}"#,
            ),
            (
                What::Process(Process {
                    server: "files".into(),
                    generation: None,
                    instance: 7,
                    pid: Some(4711),
                    ended: Some("exit status 3".into()),
                    cause: Some("exit".into()),
                }),
                r#"{"v":1,"ms":5,"t":"process","server":"files","instance":7,"pid":4711,"ended":"exit status 3","cause":"exit"}"#,
            ),
            (
                What::Verdict(Verdict {
                    server: "files".into(),
                    instance: None,
                    verdict: "released".into(),
                    seen: None,
                }),
                r#"{"v":1,"ms":5,"t":"verdict","server":"files","verdict":"released"}"#,
            ),
            (
                What::ToolsChanged(Box::new(ToolsChanged {
                    server: "files".into(),
                    instance: 7,
                    before: Some("00".into()),
                    now: "11".into(),
                    added: Names::default(),
                    removed: Names::default(),
                    changed: Names::of(["read"].into_iter()),
                })),
                r#"{"v":1,"ms":5,"t":"tools.changed","server":"files","instance":7,"before":"00","now":"11","added":{"count":0,"names":[]},"removed":{"count":0,"names":[]},"changed":{"count":1,"names":["read"]}}"#,
            ),
            (
                What::ServerSet(ServerSet {
                    act: CallId { epoch: 3, number: 1 },
                    server: "files".into(),
                    generation: Some(4),
                    spec: Some("22".into()),
                }),
                r#"{"v":1,"ms":5,"t":"server.set","act":"3-1","server":"files","generation":4,"spec":"22"}"#,
            ),
        ];
        for (what, text) in all {
            let record = Record::new(5, what);
            let bytes = record.encode().unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), text);
            assert_eq!(Record::decode(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_too_long_is_refused() {
        let more = br#"{"v":1,"ms":5,"t":"log","event":"heartbeat","new":{"x":1}}"#;
        assert_eq!(Record::decode(more).unwrap().what, What::Log(LogEvent::Heartbeat {}));
        assert!(Record::decode(br#"{"v":1,"ms":5,"t":"another"}"#).is_err());
        let long = What::Log(LogEvent::Refusing { why: "x".repeat(MAX_BYTES).into() });
        assert!(matches!(Record::new(5, long).encode(), Err(EncodeError::TooLong { .. })));
    }

    #[test]
    fn ids_have_one_spelling() {
        assert_eq!("3-41".parse(), Ok(CallId { epoch: 3, number: 41 }));
        for wrong in ["", "3", "3-", "03-41", "3-+41", "3-41 ", "-3-41"] {
            assert_eq!(wrong.parse::<CallId>(), Err(BadCallId), "{wrong}");
        }
    }

    #[test]
    fn names_of_strangers_are_short_and_obeyed_by_nothing() {
        assert_eq!(named("read_file"), "read_file");
        assert_eq!(named("a\x1b[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(named(&"x".repeat(500)).len(), 128);
    }
}
