//! What two daemons say to each other: length, kind, fields; little-endian.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

/// Longest frame, bytes: a line of a server with room for its head. Both ends are ours, and of one user.
const MOST: usize = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Old to new: what was held of an instance's pipes, and how many calls of the old daemon it has.
    /// `serves`: calls that are yet to come may go there.
    Rest { instance: u64, in_flight: u32, serves: bool, unread: Vec<u8>, unwritten: Vec<u8> },
    /// Old to new: that was all.
    Yielded,
    /// New to old: calls are taken.
    Serving,
    /// New to old: a line of the server that concerns a call of the old daemon. Old to new: a line for the server.
    Line { instance: u64, line: Vec<u8> },
    /// Old to new: from here on the pipes are yours alone. Until then the new daemon reads and writes none of them.
    Yours,
    /// New to old: the instance ended. `by_host`: that was the host's own doing.
    Gone { instance: u64, status: String, by_host: bool },
    /// New to old: nothing will be heard of the instance any more, and nobody knows how it is.
    Unheard { instance: u64 },
    /// New to old: what a session's client said about something that the new daemon does not know.
    Message { session: String, body: Vec<u8> },
    /// New to old: a session is over, and its calls with it.
    SessionEnded { session: String },
    /// Old to new: nothing of the old daemon needs the instance any more.
    Released { instance: u64 },
    /// Old to new: how many calls it has at an instance now.
    Busy { instance: u64, calls: u32 },
    /// Old to new: the last event of a session's stream. Its client may come for it to either daemon.
    Answer { session: String, stream: u64, body: Vec<u8> },
    /// Old to new: a record for the ledger. `on_disk`: the word comes when the disk has it, else when the kernel has.
    Entry { number: u64, on_disk: bool, entry: Vec<u8> },
    /// New to old: the record is in the ledger, at this index; or why it is not.
    Entered { number: u64, outcome: Result<Option<u64>, String> },
}

impl Frame {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        match self {
            Self::Rest { instance, in_flight, serves, unread, unwritten } => {
                out.push(1);
                out.extend_from_slice(&instance.to_le_bytes());
                out.extend_from_slice(&in_flight.to_le_bytes());
                out.extend_from_slice(&u32::from(*serves).to_le_bytes());
                put(&mut out, unread);
                put(&mut out, unwritten);
            }
            Self::Yielded => out.push(2),
            Self::Serving => out.push(3),
            Self::Line { instance, line } => {
                out.push(4);
                out.extend_from_slice(&instance.to_le_bytes());
                put(&mut out, line);
            }
            Self::Gone { instance, status, by_host } => {
                out.push(5);
                out.extend_from_slice(&instance.to_le_bytes());
                out.extend_from_slice(&u32::from(*by_host).to_le_bytes());
                put(&mut out, status.as_bytes());
            }
            Self::Message { session, body } => {
                out.push(6);
                put(&mut out, session.as_bytes());
                put(&mut out, body);
            }
            Self::Yours => out.push(10),
            Self::Unheard { instance } => {
                out.push(11);
                out.extend_from_slice(&instance.to_le_bytes());
            }
            Self::SessionEnded { session } => {
                out.push(7);
                put(&mut out, session.as_bytes());
            }
            Self::Released { instance } => {
                out.push(8);
                out.extend_from_slice(&instance.to_le_bytes());
            }
            Self::Busy { instance, calls } => {
                out.push(9);
                out.extend_from_slice(&instance.to_le_bytes());
                out.extend_from_slice(&calls.to_le_bytes());
            }
            Self::Entry { number, on_disk, entry } => {
                out.push(13);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&u32::from(*on_disk).to_le_bytes());
                put(&mut out, entry);
            }
            Self::Entered { number, outcome } => {
                out.push(14);
                out.extend_from_slice(&number.to_le_bytes());
                put_outcome(&mut out, outcome);
            }
            Self::Answer { session, stream, body } => {
                out.push(12);
                put(&mut out, session.as_bytes());
                out.extend_from_slice(&stream.to_le_bytes());
                put(&mut out, body);
            }
        }
        let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
        out[..4].copy_from_slice(&length.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Fields(bytes.get(1..)?);
        let frame = match bytes[0] {
            1 => Self::Rest {
                instance: rest.u64()?,
                in_flight: rest.u32()?,
                serves: rest.u32()? != 0,
                unread: rest.bytes()?,
                unwritten: rest.bytes()?,
            },
            2 => Self::Yielded,
            3 => Self::Serving,
            4 => Self::Line { instance: rest.u64()?, line: rest.bytes()? },
            5 => Self::Gone { instance: rest.u64()?, by_host: rest.u32()? != 0, status: rest.text()? },
            6 => Self::Message { session: rest.text()?, body: rest.bytes()? },
            10 => Self::Yours,
            11 => Self::Unheard { instance: rest.u64()? },
            7 => Self::SessionEnded { session: rest.text()? },
            8 => Self::Released { instance: rest.u64()? },
            9 => Self::Busy { instance: rest.u64()?, calls: rest.u32()? },
            13 => Self::Entry { number: rest.u64()?, on_disk: rest.u32()? != 0, entry: rest.bytes()? },
            14 => {
                let (number, kind, index, why) = (rest.u64()?, rest.u32()?, rest.u64()?, rest.text()?);
                let outcome = match kind {
                    0 => Ok(Some(index)),
                    1 => Ok(None),
                    _ => Err(why),
                };
                Self::Entered { number, outcome }
            }
            12 => Self::Answer { session: rest.text()?, stream: rest.u64()?, body: rest.bytes()? },
            _ => return None,
        };
        rest.0.is_empty().then_some(frame)
    }
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Result<Option<u64>, String>) {
    let (kind, index, why) = match outcome {
        Ok(Some(index)) => (0, *index, ""),
        Ok(None) => (1, 0, ""),
        Err(why) => (2, 0, why.as_str()),
    };
    out.extend_from_slice(&u32::to_le_bytes(kind));
    out.extend_from_slice(&index.to_le_bytes());
    put(out, why.as_bytes());
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = self.u32()? as usize;
        Some(self.take(length)?.to_vec())
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }
}

/// Reads frames so that a wait for the next one can be given up without losing a byte.
#[derive(Debug)]
pub(super) struct Reader<R> {
    from: BufReader<R>,
    part: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from: BufReader::new(from), part: Vec::new() }
    }

    /// The next frame. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Frame> {
        loop {
            let wanted = match self.part.first_chunk::<4>() {
                Some(length) => 4 + u32::from_le_bytes(*length) as usize,
                None => 4,
            };
            if wanted > MOST {
                return Err(io::Error::other("a frame is too long"));
            }
            if self.part.len() == wanted && wanted > 4 {
                let frame = Frame::decode(&self.part[4..]);
                self.part.clear();
                return frame.ok_or_else(|| io::Error::other("a frame cannot be read"));
            }
            let mut missing = (&mut self.from).take((wanted - self.part.len()) as u64);
            if missing.read_buf(&mut self.part).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// One frame, and no byte more.
pub(super) async fn read_from(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let length = stream.read_u32_le().await? as usize;
    if length > MOST {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Frame::decode(&bytes).ok_or_else(|| io::Error::other("a frame cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (any::<u64>(), any::<u32>(), any::<bool>(), bytes(), bytes()).prop_map(
                |(instance, in_flight, serves, unread, unwritten)| Frame::Rest {
                    instance,
                    in_flight,
                    serves,
                    unread,
                    unwritten
                }
            ),
            Just(Frame::Yielded),
            Just(Frame::Serving),
            Just(Frame::Yours),
            any::<u64>().prop_map(|instance| Frame::Unheard { instance }),
            (any::<u64>(), bytes()).prop_map(|(instance, line)| Frame::Line { instance, line }),
            (any::<u64>(), ".*", any::<bool>()).prop_map(|(instance, status, by_host)| Frame::Gone {
                instance,
                status,
                by_host
            }),
            (".*", bytes()).prop_map(|(session, body)| Frame::Message { session, body }),
            ".*".prop_map(|session| Frame::SessionEnded { session }),
            any::<u64>().prop_map(|instance| Frame::Released { instance }),
            (any::<u64>(), any::<u32>()).prop_map(|(instance, calls)| Frame::Busy { instance, calls }),
            (".*", any::<u64>(), bytes()).prop_map(|(session, stream, body)| Frame::Answer { session, stream, body }),
            (any::<u64>(), any::<bool>(), bytes()).prop_map(|(number, on_disk, entry)| Frame::Entry {
                number,
                on_disk,
                entry
            }),
            (any::<u64>(), proptest::result::maybe_ok(any::<Option<u64>>(), ".*"))
                .prop_map(|(number, outcome)| Frame::Entered { number, outcome }),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_in_order_through_any_pieces(sent in proptest::collection::vec(frames(), 1..20), room in 1_usize..64) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(async {
                let (mut ours, theirs) = tokio::io::duplex(room);
                let wire: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
                let count = sent.len();
                let read = async {
                    let mut reader = Reader::new(theirs);
                    let mut got = Vec::new();
                    for _ in 0..count {
                        got.push(reader.next().await.unwrap());
                    }
                    got
                };
                let write = async { tokio::io::AsyncWriteExt::write_all(&mut ours, &wire).await.unwrap() };
                tokio::join!(read, write).0
            });
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn nothing_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let _ = Frame::decode(&bytes);
        }
    }
}
