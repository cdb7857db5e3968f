//! The smallest useful stdio MCP server, for benchmarks: one thread, one pass over each message, one write per answer.
//! It speaks both eras. Its tool `echo` answers `arguments.text` as text, without decoding it.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

/// The longest message, in bytes.
const MAX_LINE: usize = 256 << 20;
/// How much one read may bring; a pipe holds at most 64 KiB by default.
const CHUNK: usize = 256 << 10;
const TOOL: &str = r#"{"name":"echo","description":"Answers its text","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}}"#;

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<Arguments<'a>>,
    #[serde(borrow, rename = "protocolVersion")]
    version: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

fn main() -> io::Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut lines = Lines { buffer: vec![0; CHUNK], start: 0, scanned: 0, end: 0 };
    let mut answer = Vec::with_capacity(CHUNK);
    while let Some(line) = lines.next(&mut input)? {
        answer.clear();
        reply(line, &mut answer);
        if !answer.is_empty() {
            answer.push(b'\n');
            output.write_all(&answer)?;
        }
    }
    Ok(())
}

/// Lines of a file, cut out of one buffer that grows with the longest line.
struct Lines {
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    end: usize,
}

impl Lines {
    /// The next line without its newline, or none at the end of the input.
    fn next(&mut self, input: &mut File) -> io::Result<Option<&[u8]>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..self.end]) {
                let line = self.start..self.scanned + at;
                self.start = line.end + 1;
                self.scanned = self.start;
                return Ok(Some(&self.buffer[line]));
            }
            self.scanned = self.end;
            self.make_room()?;
            let read = input.read(&mut self.buffer[self.end..])?;
            if read == 0 {
                return Ok(None);
            }
            self.end += read;
        }
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.start > 0 && (self.start == self.end || self.end == self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            if self.buffer.len() >= MAX_LINE {
                return Err(io::Error::other("a message is longer than 256 MiB"));
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        Ok(())
    }
}

/// Writes the answer to one message. Notifications get none.
fn reply(line: &[u8], out: &mut Vec<u8>) {
    let Ok(incoming) = serde_json::from_slice::<Incoming<'_>>(line) else {
        if !line.trim_ascii().is_empty() {
            put(out, &[r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not a message"}}"#]);
        }
        return;
    };
    let (Some(id), Some(method)) = (incoming.id, incoming.method) else { return };
    let params = incoming.params.unwrap_or_default();
    let modern = params.meta.as_ref().is_some_and(|meta| meta.version.is_some());
    put(out, &[r#"{"jsonrpc":"2.0","id":"#, id.get()]);
    let body_start = out.len();
    match (&*method, modern) {
        ("tools/call", _) => call(&params, out),
        ("tools/list", _) => put(out, &[r#","result":{"tools":["#, TOOL, "]"]),
        ("ping", false) => put(out, &[r#","result":{"#]),
        ("initialize", false) => {
            let version = params.version.map_or("\"2025-11-25\"", RawValue::get);
            let rest = r#","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1"}"#;
            put(out, &[r#","result":{"protocolVersion":"#, version, rest]);
        }
        ("server/discover", true) => {
            put(out, &[r#","result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}"#]);
        }
        ("server/discover", false) => put(out, &[r#","error":{"code":-32602,"message":"_meta is incomplete""#]),
        _ => put(out, &[r#","error":{"code":-32601,"message":"Method not found""#]),
    }
    if modern && out[body_start..].starts_with(b",\"result\"") {
        put(out, &[r#","resultType":"complete""#]);
        if method != "tools/call" {
            put(out, &[r#","ttlMs":300000,"cacheScope":"public""#]);
        }
    }
    put(out, &["}}"]);
}

fn call(params: &Params<'_>, out: &mut Vec<u8>) {
    let text = params.arguments.as_ref().and_then(|arguments| arguments.text);
    match text.map(RawValue::get).filter(|text| text.starts_with('"') && params.name.as_deref() == Some("echo")) {
        Some(text) => put(out, &[r#","result":{"content":[{"type":"text","text":"#, text, "}]"]),
        None => put(out, &[r#","error":{"code":-32602,"message":"only echo with a text can be called""#]),
    }
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    fn answer(line: &str) -> String {
        let mut out = Vec::new();
        super::reply(line.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_answer_is_json_of_its_era() {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        for method in ["initialize", "ping", "tools/list", "tools/call", "server/discover", "nothing"] {
            for meta in ["", meta] {
                let line = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"{method}","params":{{{meta}}}}}"#);
                let value: serde_json::Value = serde_json::from_str(&answer(&line)).unwrap();
                assert_eq!(value["id"], "a");
                let complete = value["result"]["resultType"] == "complete";
                assert_eq!(complete, !meta.is_empty() && value.get("result").is_some(), "{value}");
            }
        }
    }

    #[test]
    fn the_text_keeps_its_spelling() {
        let line = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a\u0041\n","x":1.10}}}"#;
        let expected = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"a\u0041\n"}]}}"#;
        assert_eq!(answer(line), expected);
        assert_eq!(answer(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), "");
    }
}
