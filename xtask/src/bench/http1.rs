//! A small HTTP/1.1 client that costs little beside what it measures: one connection, one request at a time.

use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Head of a response that is accepted, bytes.
const HEAD_LIMIT: usize = 64 * 1024;
/// Body of a response that is accepted, bytes.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// A keep-alive connection, TCP_NODELAY on.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    body: Vec<u8>,
}

/// What the head of a response says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Status code.
    pub(crate) status: u16,
    /// `Mcp-Session-Id`.
    pub(crate) session: Option<String>,
    /// Whether the body is an event stream.
    pub(crate) events: bool,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    /// No body.
    #[default]
    None,
    Length(usize),
    Chunked,
}

// === impl Connection ===

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, inbox: BytesMut::with_capacity(128 * 1024), body: Vec::new() })
    }

    /// Sends one whole request and reads its whole response; the body is then in `body`.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Head> {
        self.stream.write_all(request).await?;
        self.inbox.clear();
        self.body.clear();
        let head_end = self.fill_until_head().await?;
        let head = parse_head(&self.inbox[..head_end])?;
        let consumed = match head.framing {
            Framing::None => head_end,
            Framing::Length(length) => {
                self.fill_to(head_end + length).await?;
                self.body.extend_from_slice(&self.inbox[head_end..head_end + length]);
                head_end + length
            }
            Framing::Chunked => self.read_chunks(head_end).await?,
        };
        if consumed != self.inbox.len() {
            return Err(invalid("bytes follow the response that nobody asked for"));
        }
        Ok(head)
    }

    /// Body of the last response.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    async fn fill_until_head(&mut self) -> io::Result<usize> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.inbox[searched..], b"\r\n\r\n") {
                return Ok(searched + at + 4);
            }
            if self.inbox.len() > HEAD_LIMIT {
                return Err(invalid("the response head is too long"));
            }
            searched = self.inbox.len().saturating_sub(3);
            self.fill().await?;
        }
    }

    async fn fill_to(&mut self, length: usize) -> io::Result<()> {
        if length > HEAD_LIMIT + BODY_LIMIT {
            return Err(invalid("the response body is too long"));
        }
        while self.inbox.len() < length {
            self.fill().await?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.inbox.reserve(16 * 1024);
        match self.stream.read_buf(&mut self.inbox).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the answer ended")),
            _ => Ok(()),
        }
    }

    /// Decodes chunks from `at` on; returns where the response ends.
    async fn read_chunks(&mut self, mut at: usize) -> io::Result<usize> {
        loop {
            let line_end = self.fill_until_line(at).await?;
            let size = chunk_size(&self.inbox[at..line_end])?;
            let data = line_end + 2;
            self.fill_to(data + size + 2).await?;
            if &self.inbox[data + size..data + size + 2] != b"\r\n" {
                return Err(invalid("a chunk does not end where it said, or trailers follow"));
            }
            if size == 0 {
                return Ok(data + 2);
            }
            self.body.extend_from_slice(&self.inbox[data..data + size]);
            at = data + size + 2;
        }
    }

    /// Where the line that begins at `at` ends, before its CRLF.
    async fn fill_until_line(&mut self, at: usize) -> io::Result<usize> {
        loop {
            if let Some(end) = find(&self.inbox[at..], b"\r\n") {
                return Ok(at + end);
            }
            if self.inbox.len() - at > 256 {
                return Err(invalid("a chunk size is too long"));
            }
            self.fill().await?;
        }
    }
}

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let text = std::str::from_utf8(head).map_err(|_| invalid("the response head is not UTF-8"))?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| invalid("the response does not begin with an HTTP/1.1 status"))?;
    let mut out = Head { status, ..Head::default() };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| invalid("the content length is no number"))?;
            out.framing = Framing::Length(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            out.framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("content-type") {
            out.events = value.starts_with("text/event-stream");
        } else if name.eq_ignore_ascii_case("mcp-session-id") {
            out.session = Some(value.to_owned());
        }
    }
    Ok(out)
}

fn chunk_size(line: &[u8]) -> io::Result<usize> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| usize::from_str_radix(text.trim(), 16).ok())
        .filter(|size| *size <= BODY_LIMIT)
        .ok_or_else(|| invalid("a chunk size is no number or too large"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::Connection;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// What the client makes of `response`, sent in pieces of `step` bytes.
    fn receive(response: &'static [u8], step: usize) -> Result<(u16, bool, Option<String>, Vec<u8>), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = stdx::task::spawn("server", async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut request = [0; 4];
                stream.read_exact(&mut request).await.unwrap();
                for piece in response.chunks(step) {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let mut connection = Connection::open(&address).await.unwrap();
            let head = connection.exchange(b"ping").await.map_err(|error| error.to_string());
            server.await.unwrap();
            let head = head?;
            Ok((head.status, head.events, head.session, connection.body().to_vec()))
        })
    }

    #[test]
    fn reads_plain_chunked_and_empty_bodies() {
        for step in [1, 7, 4096] {
            let plain =
                receive(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nMcp-Session-Id: abc\r\n\r\nhi", step).unwrap();
            assert_eq!(plain, (200, false, Some("abc".to_owned()), b"hi".to_vec()));
            let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n\
                2\r\nhi\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
            assert_eq!(receive(chunked, step).unwrap(), (200, true, None, b"hi0123456789".to_vec()));
            assert_eq!(receive(b"HTTP/1.1 202 Accepted\r\n\r\n", step).unwrap().0, 202);
        }
    }

    #[test]
    fn broken_responses_are_errors() {
        for (response, why) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi"[..], "closed"),
            (b"nonsense\r\n\r\n", "status"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nhi", "nobody asked"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "too long"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
        ] {
            let error = receive(response, 4096).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
