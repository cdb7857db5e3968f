//! What crosses the socket: frames with a request number, and the words in them. Strict: every length is bounded by
//! what came, an unknown kind, a number out of range or bytes left over are errors.
//!
//! A frame is a head of three little-endian `u32` (bytes of the body, request, descriptors that ride on the frame) and a
//! body: one byte of kind, then its fields. A number is a `u64`, text and lists have their length before them.

use crate::words::{Exit, Launch, Stage};
use jail::{Limits, Usage};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The versions of the protocol that this build speaks.
pub(crate) const LOWEST: u16 = 1;
pub(crate) const HIGHEST: u16 = 1;
/// Bytes of a head.
pub(crate) const HEAD: usize = 12;
/// Longest body, bytes.
pub(crate) const MAX_BODY: usize = 4 << 20;
/// Most descriptors of one frame.
pub(crate) const MAX_FDS: usize = 4;

/// Bytes that are no frame of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head says more than we take.
    #[error("a frame of {0} bytes; at most {MAX_BODY}")]
    Long(usize),
    /// The head says more descriptors than any frame has, or they did not come.
    #[error("a frame with {said} descriptors, of which {came} came")]
    Descriptors {
        /// What the head says.
        said: usize,
        /// What came, or the most that a frame may have.
        came: usize,
    },
    /// Nothing that we know begins so.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// A field goes beyond the frame.
    #[error("a frame that ends within a field")]
    Short,
    /// Bytes after the last field.
    #[error("a frame with {0} bytes too many")]
    Trailing(usize),
    /// A number or text that its field cannot be.
    #[error("a frame with an impossible value")]
    Value,
}

/// What a daemon asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Hello { lowest: u16, highest: u16, pid: u32 },
    Spawn(Launch),
    List,
    CloseStdin { id: u64 },
    Forget { id: u64 },
    Signal { id: u64, signal: i32 },
    Hold { name: String },
    Take { name: String },
    Drop { name: String },
    Count { id: u64 },
    End { grace_ms: u64 },
}

/// What a keeper says. `Held` comes any number of times before the frame that finishes an answer; request 0 is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Welcome { version: u16, keeper_pid: u32 },
    Attached { pid: u32 },
    Version { lowest: u16, highest: u16 },
    Spawned { id: u64, pid: u32, started: u64 },
    Failed { errno: i32, stage: Stage, text: String },
    Held { id: u64, pid: u32, started: u64, exit: Option<Exit>, over: Option<String> },
    Done,
    Nothing,
    Used(Usage),
    Error { text: String },
    Exited { id: u64, exit: Exit },
    Over { id: u64, text: String },
}

/// The body of a frame.
pub(crate) trait Body: Sized {
    fn write(&self, to: &mut Writer);
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// One frame as bytes, head included.
pub(crate) fn encode(request: u32, fds: usize, body: &impl Body) -> Result<Vec<u8>, Malformed> {
    let mut writer = Writer(vec![0; HEAD]);
    body.write(&mut writer);
    let mut bytes = writer.0;
    let length = bytes.len() - HEAD;
    let head = [u32::try_from(length).unwrap_or(u32::MAX), request, u32::try_from(fds).unwrap_or(u32::MAX)];
    for (place, number) in bytes.chunks_exact_mut(4).zip(head) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    if length > MAX_BODY { Err(Malformed::Long(length)) } else { Ok(bytes) }
}

/// The first frame of `bytes`, if it is complete: its request, how many descriptors are its own, its body, and its
/// length with the head.
pub(crate) fn decode<B: Body>(bytes: &[u8]) -> Result<Option<(u32, usize, B, usize)>, Malformed> {
    let number = |at: usize| bytes.get(at..at + 4).and_then(|found| found.try_into().ok()).map(u32::from_le_bytes);
    let (Some(length), Some(request), Some(fds)) = (number(0), number(4), number(8)) else { return Ok(None) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let fds = usize::try_from(fds).unwrap_or(usize::MAX);
    if length > MAX_BODY {
        return Err(Malformed::Long(length));
    }
    if fds > MAX_FDS {
        return Err(Malformed::Descriptors { said: fds, came: MAX_FDS });
    }
    let Some(body) = bytes.get(HEAD..HEAD + length) else { return Ok(None) };
    let mut reader = Reader(body);
    let read = B::read(&mut reader)?;
    if !reader.0.is_empty() {
        return Err(Malformed::Trailing(reader.0.len()));
    }
    Ok(Some((request, fds, read, HEAD + length)))
}

/// Appends fields.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    fn kind(&mut self, kind: u8) -> &mut Self {
        self.0.push(kind);
        self
    }

    fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        self.0.extend(number.into().to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).0.extend(bytes);
        self
    }

    fn optional(&mut self, number: Option<u64>) -> &mut Self {
        match number {
            Some(number) => self.kind(1).number(number),
            None => self.kind(0),
        }
    }

    fn exit(&mut self, exit: Exit) -> &mut Self {
        match exit {
            Exit::Code(code) => self.kind(1).number(code.unsigned_abs()),
            Exit::Signal(signal) => self.kind(2).number(signal.unsigned_abs()),
        }
    }
}

/// Takes fields off.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn kind(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed::Short)?;
        T::try_from(u64::from_le_bytes(bytes)).map_err(|_| Malformed::Value)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed::Value)
    }

    fn os(&mut self) -> Result<OsString, Malformed> {
        Ok(OsString::from_vec(self.bytes()?.to_vec()))
    }

    /// A list. Each of its items has eight bytes at least, so a count beyond that is a lie that must not reserve memory.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count: usize = self.number()?;
        if count > self.0.len() / 8 {
            return Err(Malformed::Short);
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn optional<T>(&mut self, some: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<Option<T>, Malformed> {
        match self.kind()? {
            0 => Ok(None),
            1 => some(self).map(Some),
            _ => Err(Malformed::Value),
        }
    }

    fn exit(&mut self) -> Result<Exit, Malformed> {
        match self.kind()? {
            1 => Ok(Exit::Code(self.number()?)),
            2 => Ok(Exit::Signal(self.number()?)),
            _ => Err(Malformed::Value),
        }
    }
}

impl Body for Ask {
    fn write(&self, to: &mut Writer) {
        match self {
            Self::Hello { lowest, highest, pid } => to.kind(1).number(*lowest).number(*highest).number(*pid),
            Self::Spawn(launch) => write_launch(launch, to.kind(2)),
            Self::List => to.kind(3),
            Self::CloseStdin { id } => to.kind(4).number(*id),
            Self::Forget { id } => to.kind(5).number(*id),
            Self::Signal { id, signal } => to.kind(6).number(*id).number(signal.unsigned_abs()),
            Self::Hold { name } => to.kind(7).bytes(name.as_bytes()),
            Self::Take { name } => to.kind(8).bytes(name.as_bytes()),
            Self::Drop { name } => to.kind(9).bytes(name.as_bytes()),
            Self::Count { id } => to.kind(10).number(*id),
            Self::End { grace_ms } => to.kind(11).number(*grace_ms),
        };
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.kind()? {
            1 => Self::Hello { lowest: from.number()?, highest: from.number()?, pid: from.number()? },
            2 => Self::Spawn(read_launch(from)?),
            3 => Self::List,
            4 => Self::CloseStdin { id: from.number()? },
            5 => Self::Forget { id: from.number()? },
            6 => Self::Signal { id: from.number()?, signal: from.number()? },
            7 => Self::Hold { name: from.text()? },
            8 => Self::Take { name: from.text()? },
            9 => Self::Drop { name: from.text()? },
            10 => Self::Count { id: from.number()? },
            11 => Self::End { grace_ms: from.number()? },
            kind => return Err(Malformed::Kind(kind)),
        })
    }
}

fn write_launch<'a>(launch: &Launch, to: &'a mut Writer) -> &'a mut Writer {
    let Launch { id, program, args, env, cwd, limits } = launch;
    to.number(*id).bytes(program.as_bytes()).bytes(cwd.as_os_str().as_bytes());
    to.number(args.len() as u64);
    for arg in args {
        to.bytes(arg.as_bytes());
    }
    to.number(env.len() as u64);
    for (name, value) in env {
        to.bytes(name.as_bytes()).bytes(value.as_bytes());
    }
    to.optional(limits.memory_bytes).optional(limits.processes);
    to.optional(limits.open_files).optional(limits.cpu_percent)
}

fn read_launch(from: &mut Reader<'_>) -> Result<Launch, Malformed> {
    let (id, program, cwd) = (from.number()?, from.os()?, PathBuf::from(from.os()?));
    let args = from.list(Reader::os)?;
    let env = from.list(|from| Ok((from.os()?, from.os()?)))?;
    let limits = Limits {
        memory_bytes: from.optional(Reader::number)?,
        processes: from.optional(Reader::number)?,
        open_files: from.optional(Reader::number)?,
        cpu_percent: from.optional(Reader::number)?,
    };
    // A NUL would end the word early for the system: what was checked would not be what is started.
    let whole = |word: &OsStr| !word.as_bytes().contains(&0);
    let named = |name: &OsStr| whole(name) && !name.is_empty() && !name.as_bytes().contains(&b'=');
    let good = whole(&program)
        && whole(cwd.as_os_str())
        && args.iter().all(|arg| whole(arg))
        && env.iter().all(|(name, value)| named(name) && whole(value));
    if good { Ok(Launch { id, program, args, env, cwd, limits }) } else { Err(Malformed::Value) }
}

impl Body for Say {
    fn write(&self, to: &mut Writer) {
        match self {
            Self::Welcome { version, keeper_pid } => to.kind(1).number(*version).number(*keeper_pid),
            Self::Attached { pid } => to.kind(2).number(*pid),
            Self::Version { lowest, highest } => to.kind(3).number(*lowest).number(*highest),
            Self::Spawned { id, pid, started } => to.kind(4).number(*id).number(*pid).number(*started),
            Self::Failed { errno, stage, text } => {
                to.kind(5).number(errno.unsigned_abs()).kind(*stage as u8).bytes(text.as_bytes())
            }
            Self::Held { id, pid, started, exit, over } => {
                to.kind(6).number(*id).number(*pid).number(*started);
                match exit {
                    Some(exit) => to.kind(1).exit(*exit),
                    None => to.kind(0),
                };
                match over {
                    Some(text) => to.kind(1).bytes(text.as_bytes()),
                    None => to.kind(0),
                }
            }
            Self::Done => to.kind(7),
            Self::Nothing => to.kind(8),
            Self::Used(used) => {
                to.kind(9).number(used.resident_bytes).number(used.processes).number(used.open_files);
                to.number(used.cpu_ms).number(used.oom_kills)
            }
            Self::Error { text } => to.kind(10).bytes(text.as_bytes()),
            Self::Exited { id, exit } => to.kind(11).number(*id).exit(*exit),
            Self::Over { id, text } => to.kind(12).number(*id).bytes(text.as_bytes()),
        };
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.kind()? {
            1 => Self::Welcome { version: from.number()?, keeper_pid: from.number()? },
            2 => Self::Attached { pid: from.number()? },
            3 => Self::Version { lowest: from.number()?, highest: from.number()? },
            4 => Self::Spawned { id: from.number()?, pid: from.number()?, started: from.number()? },
            5 => Self::Failed { errno: from.number()?, stage: read_stage(from)?, text: from.text()? },
            6 => Self::Held {
                id: from.number()?,
                pid: from.number()?,
                started: from.number()?,
                exit: from.optional(Reader::exit)?,
                over: from.optional(Reader::text)?,
            },
            7 => Self::Done,
            8 => Self::Nothing,
            9 => Self::Used(Usage {
                resident_bytes: from.number()?,
                processes: from.number()?,
                open_files: from.number()?,
                cpu_ms: from.number()?,
                oom_kills: from.number()?,
            }),
            10 => Self::Error { text: from.text()? },
            11 => Self::Exited { id: from.number()?, exit: from.exit()? },
            12 => Self::Over { id: from.number()?, text: from.text()? },
            kind => return Err(Malformed::Kind(kind)),
        })
    }
}

fn read_stage(from: &mut Reader<'_>) -> Result<Stage, Malformed> {
    let stages = [Stage::NoProgram, Stage::NoDirectory, Stage::NoPipe, Stage::Exec, Stage::Limit, Stage::Duplicate];
    let kind = from.kind()?;
    stages.into_iter().find(|stage| *stage as u8 == kind).ok_or(Malformed::Value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    fn word() -> impl Strategy<Value = OsString> {
        // Whatever the system takes: any bytes but NUL, and in names no `=`.
        prop::collection::vec((1..=255_u8).prop_filter("no name has it", |byte| *byte != b'='), 1..40)
            .prop_map(OsString::from_vec)
    }

    fn launch() -> impl Strategy<Value = Launch> {
        let number = || option::of(any::<u64>());
        let limits = (number(), number(), number(), number());
        let limits = limits.prop_map(|(memory_bytes, processes, open_files, cpu_percent)| Limits {
            memory_bytes,
            processes,
            open_files,
            cpu_percent,
        });
        let words = prop::collection::vec(word(), 0..20);
        let env = prop::collection::vec((word(), word()), 0..20);
        (any::<u64>(), word(), words, env, word(), limits).prop_map(|(id, program, args, env, cwd, limits)| Launch {
            id,
            program,
            args,
            env,
            cwd: cwd.into(),
            limits,
        })
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let id = any::<u64>();
        prop_oneof![
            any::<(u16, u16, u32)>().prop_map(|(lowest, highest, pid)| Ask::Hello { lowest, highest, pid }),
            launch().prop_map(Ask::Spawn),
            Just(Ask::List),
            id.prop_map(|id| Ask::CloseStdin { id }),
            id.prop_map(|id| Ask::Forget { id }),
            (id, 0..i32::MAX).prop_map(|(id, signal)| Ask::Signal { id, signal }),
            any::<String>().prop_map(|name| Ask::Hold { name }),
            any::<String>().prop_map(|name| Ask::Take { name }),
            any::<String>().prop_map(|name| Ask::Drop { name }),
            id.prop_map(|id| Ask::Count { id }),
            id.prop_map(|grace_ms| Ask::End { grace_ms }),
        ]
    }

    fn exit() -> impl Strategy<Value = Exit> {
        prop_oneof![(0..256).prop_map(Exit::Code), (1..65).prop_map(Exit::Signal)]
    }

    fn say() -> impl Strategy<Value = Say> {
        let stages = [Stage::NoProgram, Stage::NoDirectory, Stage::NoPipe, Stage::Exec, Stage::Limit, Stage::Duplicate];
        let started = any::<(u64, u32, u64)>();
        let over = option::of(any::<String>());
        let used = any::<[u64; 5]>();
        prop_oneof![
            any::<(u16, u32)>().prop_map(|(version, keeper_pid)| Say::Welcome { version, keeper_pid }),
            any::<u32>().prop_map(|pid| Say::Attached { pid }),
            any::<(u16, u16)>().prop_map(|(lowest, highest)| Say::Version { lowest, highest }),
            started.prop_map(|(id, pid, started)| Say::Spawned { id, pid, started }),
            (0..200, prop::sample::select(stages.to_vec()), any::<String>())
                .prop_map(|(errno, stage, text)| Say::Failed { errno, stage, text }),
            (started, option::of(exit()), over).prop_map(|((id, pid, started), exit, over)| Say::Held {
                id,
                pid,
                started,
                exit,
                over
            }),
            Just(Say::Done),
            Just(Say::Nothing),
            used.prop_map(|[resident_bytes, processes, open_files, cpu_ms, oom_kills]| Say::Used(Usage {
                resident_bytes,
                processes,
                open_files,
                cpu_ms,
                oom_kills,
            })),
            any::<String>().prop_map(|text| Say::Error { text }),
            (any::<u64>(), exit()).prop_map(|(id, exit)| Say::Exited { id, exit }),
            (any::<u64>(), any::<String>()).prop_map(|(id, text)| Say::Over { id, text }),
        ]
    }

    /// What is written is read again, alone and with something behind it; a part of it is not yet a frame.
    fn comes_back<B: Body + PartialEq + std::fmt::Debug>(request: u32, fds: usize, body: B) {
        let mut bytes = encode(request, fds, &body).unwrap();
        let length = bytes.len();
        for part in [0, HEAD - 1, HEAD, length / 2, length - 1] {
            assert_eq!(decode::<B>(&bytes[..part.min(length - 1)]), Ok(None), "{part} of {length} bytes");
        }
        bytes.extend(b"next");
        assert_eq!(decode::<B>(&bytes), Ok(Some((request, fds, body, length))));
    }

    proptest! {
        #[test]
        fn every_question_comes_back(request: u32, fds in 0..=MAX_FDS, ask in ask()) {
            comes_back(request, fds, ask);
        }

        #[test]
        fn every_answer_comes_back(request: u32, fds in 0..=MAX_FDS, say in say()) {
            comes_back(request, fds, say);
        }
    }

    #[test]
    fn what_is_no_frame_says_why() {
        let framed = |body: &[u8]| {
            let length = u32::try_from(body.len()).unwrap();
            let head: Vec<u8> = [length, 1, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
            decode::<Ask>(&[&head, body].concat()).unwrap_err()
        };
        let number = 1_u64.to_le_bytes();
        let huge = u64::MAX.to_le_bytes();
        assert_eq!(framed(&[]), Malformed::Short);
        assert_eq!(framed(&[99]), Malformed::Kind(99));
        assert_eq!(framed(&[3, 0, 0]), Malformed::Trailing(2));
        assert_eq!(framed(&[&[10], &number[..7]].concat()), Malformed::Short);
        assert_eq!(
            framed(&[&[1], &huge[..], &number, &number].concat()),
            Malformed::Value,
            "a version beyond its range"
        );
        assert_eq!(framed(&[&[7], &huge[..]].concat()), Malformed::Short, "a name longer than memory");
        assert_eq!(framed(&[&[7], &number[..], &[255]].concat()), Malformed::Value, "a name that is no text");
        let head = |length: u32, fds: u32| [length, 1, fds].iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(decode::<Ask>(&head(u32::MAX, 0)), Err(Malformed::Long(u32::MAX as usize)));
        assert_eq!(decode::<Ask>(&head(1, 5)), Err(Malformed::Descriptors { said: 5, came: MAX_FDS }));
        let long = Ask::Hold { name: "x".repeat(MAX_BODY) };
        assert!(matches!(encode(1, 0, &long), Err(Malformed::Long(_))), "what nobody would read is not written");
    }

    #[test]
    fn a_word_that_the_system_would_cut_is_refused() {
        let good = Launch {
            id: 1,
            program: "p".into(),
            args: vec!["a".into()],
            env: vec![("N".into(), "v".into())],
            cwd: "/".into(),
            limits: Limits::default(),
        };
        let refused = |launch: Launch| {
            let bytes = encode(1, 0, &Ask::Spawn(launch)).unwrap();
            decode::<Ask>(&bytes) == Err(Malformed::Value)
        };
        assert!(!refused(good.clone()));
        assert!(refused(Launch { program: "p\0q".into(), ..good.clone() }));
        assert!(refused(Launch { args: vec!["a\0".into()], ..good.clone() }));
        assert!(refused(Launch { cwd: "/\0".into(), ..good.clone() }));
        for (name, value) in [("", "v"), ("N=M", "v"), ("N\0", "v"), ("N", "\0")] {
            assert!(refused(Launch { env: vec![(name.into(), value.into())], ..good.clone() }), "{name:?}={value:?}");
        }
    }
}
