//! An MCP client for tests: raw requests, and the two eras on top of them.

use crate::http1::{Connections, HttpError, Response, Stream};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// The revision of modern requests.
pub const MODERN: &str = "2026-07-28";
const ACCEPT: &str = "application/json, text/event-stream";

/// A client of one staithe.
#[derive(Debug)]
pub struct Client {
    connections: Connections,
    token: Option<String>,
    always: Vec<(String, String)>,
    next_id: AtomicU64,
    capabilities: Value,
}

impl Client {
    /// A client of the public listener at `base_url` (`http://host:port`). With a token, every request carries it.
    pub fn new(base_url: &str, token: Option<String>) -> Result<Self, HttpError> {
        let connections = Connections::new(base_url)?;
        Ok(Self { connections, token, always: Vec::new(), next_id: AtomicU64::new(1), capabilities: json!({}) })
    }

    /// The same client, but it declares these capabilities instead of none.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The same client, but every request carries this header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.always.push((name.to_owned(), value.to_owned()));
        self
    }

    /// POSTs `body` as it is. Only `host`, `authorization` and `content-length` are added.
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response, HttpError> {
        self.request(&Method::POST, path, headers, body).await
    }

    /// POSTs `body` as it is and returns when the headers of the answer are there.
    pub async fn post_stream(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Stream, HttpError> {
        let request = self.connections.request(&Method::POST, path, &self.authorized(headers), body.into())?;
        self.connections.open(request).await
    }

    /// GETs an event stream.
    pub async fn get_stream(&self, path: &str, headers: &[(&str, &str)]) -> Result<Stream, HttpError> {
        let request = self.connections.request(&Method::GET, path, &self.authorized(headers), Bytes::new())?;
        self.connections.open(request).await
    }

    /// GETs a whole answer.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response, HttpError> {
        self.request(&Method::GET, path, headers, Bytes::new()).await
    }

    /// DELETEs.
    pub async fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response, HttpError> {
        self.request(&Method::DELETE, path, headers, Bytes::new()).await
    }

    /// Any method.
    pub async fn request(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response, HttpError> {
        let request = self.connections.request(method, path, &self.authorized(headers), body.into())?;
        self.connections.send(request).await
    }

    /// The headers with those of every request and our token, unless they bring an `authorization` of their own.
    fn authorized(&self, headers: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut all: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.extend_from_slice(&self.always);
        let own = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let (Some(token), false) = (&self.token, own) {
            all.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        all
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a session of the newest legacy revision with `server`.
    pub async fn legacy_session(&self, server: &str) -> Result<Session<'_>, HttpError> {
        self.legacy_session_at(server, "2025-11-25").await
    }

    /// Opens a session with `server`: `initialize` with this revision, then `notifications/initialized`.
    pub async fn legacy_session_at(&self, server: &str, revision: &str) -> Result<Session<'_>, HttpError> {
        let path = format!("/mcp/{server}");
        let params = json!({
            "protocolVersion": revision,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "testkit", "version": "1"},
        });
        let request = json!({"jsonrpc": "2.0", "id": self.id(), "method": "initialize", "params": params});
        let headers = [("accept", ACCEPT), ("content-type", "application/json")];
        let response = self.post(&path, &headers, request.to_string()).await?;
        let answer = final_message(&response)?;
        let Some(revision) = answer["result"]["protocolVersion"].as_str().map(str::to_owned) else {
            return Err(response.unexpected("an initialize result"));
        };
        let id = response.header("mcp-session-id").map(str::to_owned);
        let session = Session { client: self, path, id, revision, initialized: answer["result"].clone() };
        let accepted = session.notify("notifications/initialized", json!({})).await?;
        if accepted.status == 202 { Ok(session) } else { Err(accepted.unexpected("accepted as a notification")) }
    }

    /// A session that was opened before, perhaps with another client.
    pub fn known_session(&self, server: &str, id: &str, revision: &str) -> Session<'_> {
        Session {
            client: self,
            path: format!("/mcp/{server}"),
            id: Some(id.to_owned()),
            revision: revision.to_owned(),
            initialized: Value::Null,
        }
    }

    /// One modern request with `_meta` and all mirrored headers. The HTTP status and the JSON-RPC answer.
    pub async fn modern_call(&self, server: &str, method: &str, params: Value) -> Result<(u16, Value), HttpError> {
        self.modern_call_with(server, method, params, &[]).await
    }

    /// The same with more headers (`Mcp-Param-…`), which also replace ours of the same name.
    pub async fn modern_call_with(
        &self,
        server: &str,
        method: &str,
        params: Value,
        extra: &[(&str, &str)],
    ) -> Result<(u16, Value), HttpError> {
        let (headers, body) = self.modern_request(method, params, extra);
        let response = self.post(&format!("/mcp/{server}"), &borrowed(&headers), body).await?;
        Ok((response.status, final_message(&response)?))
    }

    /// One modern request whose answer is read event by event, as `subscriptions/listen` needs it.
    pub async fn modern_stream(&self, server: &str, method: &str, params: Value) -> Result<Stream, HttpError> {
        let (headers, body) = self.modern_request(method, params, &[]);
        self.post_stream(&format!("/mcp/{server}"), &borrowed(&headers), body).await
    }

    /// Headers and body of a modern request, for tests that change them before they send them. Members of
    /// `params._meta` that are there stay as they are; `params` that are no object are sent without `_meta`.
    pub fn modern_request(
        &self,
        method: &str,
        mut params: Value,
        extra: &[(&str, &str)],
    ) -> (Vec<(String, String)>, String) {
        if params.is_null() {
            params = json!({});
        }
        if let Some(members) = params.as_object_mut() {
            let meta = members.entry("_meta").or_insert_with(|| json!({}));
            if let Some(meta) = meta.as_object_mut() {
                let info = json!({"name": "testkit", "version": "1"});
                meta.entry("io.modelcontextprotocol/protocolVersion").or_insert_with(|| json!(MODERN));
                meta.entry("io.modelcontextprotocol/clientInfo").or_insert(info);
                meta.entry("io.modelcontextprotocol/clientCapabilities").or_insert_with(|| self.capabilities.clone());
            }
        }
        let mut headers = vec![
            ("accept".to_owned(), ACCEPT.to_owned()),
            ("content-type".to_owned(), "application/json".to_owned()),
            ("mcp-method".to_owned(), method.to_owned()),
        ];
        if let Some(version) = params["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str() {
            headers.push(("mcp-protocol-version".to_owned(), version.to_owned()));
        }
        let name = match method {
            "tools/call" | "prompts/get" => params["name"].as_str(),
            "resources/read" => params["uri"].as_str(),
            _ => None,
        };
        headers.extend(name.map(|name| ("mcp-name".to_owned(), header_value(name))));
        headers.retain(|(name, _)| !extra.iter().any(|(other, _)| name.eq_ignore_ascii_case(other)));
        headers.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let body = json!({"jsonrpc": "2.0", "id": self.id(), "method": method, "params": params});
        (headers, body.to_string())
    }
}

/// A legacy session. It is not closed on drop: `close` says so to the server.
#[derive(Debug)]
pub struct Session<'a> {
    client: &'a Client,
    path: String,
    /// The session id, if the server gave one.
    pub id: Option<String>,
    /// The negotiated revision.
    pub revision: String,
    /// The result of `initialize`.
    pub initialized: Value,
}

impl Session<'_> {
    /// One request; the JSON-RPC answer (with `result` or `error`).
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, HttpError> {
        let id = json!(self.client.id());
        self.call_with_id(&id, method, params).await
    }

    /// The same with an id of the caller's choice.
    pub async fn call_with_id(&self, id: &Value, method: &str, params: Value) -> Result<Value, HttpError> {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        final_message(&self.post(body).await?)
    }

    /// One request whose answer is read event by event. Give it an id that no other open request has.
    pub async fn stream(&self, id: &Value, method: &str, params: Value) -> Result<Stream, HttpError> {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        self.client.post_stream(&self.path, &borrowed(&self.headers()), body).await
    }

    /// One notification.
    pub async fn notify(&self, method: &str, params: Value) -> Result<Response, HttpError> {
        self.post(json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()).await
    }

    /// Any body, with the headers of this session.
    pub async fn post(&self, body: impl Into<Bytes>) -> Result<Response, HttpError> {
        self.client.post(&self.path, &borrowed(&self.headers()), body).await
    }

    /// The stream of what the server says without being asked.
    pub async fn listen(&self) -> Result<Stream, HttpError> {
        self.client.get_stream(&self.path, &borrowed(&self.headers())).await
    }

    /// A stream that goes on after the event that `last-event-id` among these headers names.
    pub async fn resume(&self, headers: &[(String, String)]) -> Result<Stream, HttpError> {
        self.client.get_stream(&self.path, &borrowed(headers)).await
    }

    /// Ends the session at the server.
    pub async fn close(self) -> Result<Response, HttpError> {
        self.client.delete(&self.path, &borrowed(&self.headers())).await
    }

    /// The headers of every request of this session.
    pub fn headers(&self) -> Vec<(String, String)> {
        let mut headers =
            vec![("accept".to_owned(), ACCEPT.to_owned()), ("content-type".to_owned(), "application/json".to_owned())];
        if self.revision.as_str() >= "2025-06-18" {
            headers.push(("mcp-protocol-version".to_owned(), self.revision.clone()));
        }
        headers.extend(self.id.iter().map(|id| ("mcp-session-id".to_owned(), id.clone())));
        headers
    }
}

fn borrowed(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The JSON-RPC answer in a JSON body, or in the last event of an event stream that is an answer.
fn final_message(response: &Response) -> Result<Value, HttpError> {
    if !response.header("content-type").is_some_and(|value| value.starts_with("text/event-stream")) {
        return response.json();
    }
    let (events, _comments) = response.events()?;
    let messages = events.iter().rev().filter_map(|event| serde_json::from_str::<Value>(&event.data).ok());
    let mut answers = messages.filter(|message| message.get("method").is_none() && message.get("id").is_some());
    answers.next().ok_or_else(|| response.unexpected("an event stream with an answer"))
}

/// `value` as the header `Mcp-Name` carries it: in base64 where a header could not carry it unchanged.
fn header_value(value: &str) -> String {
    let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value && !value.is_empty();
    let looks_encoded = value.starts_with("=?base64?") && value.ends_with("?=");
    if plain && !looks_encoded { value.to_owned() } else { format!("=?base64?{}?=", base64(value.as_bytes())) }
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at| usize::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = char::from(ALPHABET[bits >> shift & 63]);
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Client, base64, header_value};
    use serde_json::{Value, json};

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let known = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, expected) in known.into_iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), expected);
        }
    }

    #[test]
    fn names_are_encoded_as_the_specification_shows() {
        assert_eq!(header_value("us-west1"), "us-west1");
        assert_eq!(header_value("Hello, 世界"), "=?base64?SGVsbG8sIOS4lueVjA==?=");
        assert_eq!(header_value(" padded "), "=?base64?IHBhZGRlZCA=?=");
        assert_eq!(header_value("line1\nline2"), "=?base64?bGluZTEKbGluZTI=?=");
        assert_eq!(header_value("=?base64?literal?="), "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=");
    }

    #[test]
    fn a_modern_request_mirrors_its_body_in_headers() {
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let (headers, body) = client.modern_request("tools/call", json!({"name": "é"}), &[("Mcp-Method", "wrong")]);
        let value = |name: &str| -> Vec<&str> {
            headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
        };
        assert_eq!(value("mcp-method"), ["wrong"]);
        assert_eq!(value("mcp-name"), ["=?base64?w6k=?="]);
        assert_eq!(value("mcp-protocol-version"), ["2026-07-28"]);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"], json!({}));
    }

    #[test]
    fn only_a_plain_base_url_is_taken() {
        for url in ["https://a:1", "http://a", "http://a:1/mcp", "a:1"] {
            assert!(Client::new(url, None).is_err(), "{url}");
        }
        assert!(Client::new("http://a:1/", None).is_ok());
    }
}
