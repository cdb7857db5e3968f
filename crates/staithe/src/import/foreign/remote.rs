//! Servers with a `url`: they run elsewhere and are reached over HTTP.

use super::{Kind, Mistakes, Reader};
use model::{BadRemote, Bounds, EraPin, Remote, RemoteUrl, ServerSpec};
use serde_json::{Map, Value};

/// Under which names other tools keep the address.
const ADDRESSES: [&str; 3] = ["url", "httpUrl", "serverUrl"];
/// Under which names they say how it is spoken to.
const TRANSPORTS: [&str; 3] = ["type", "transport", "transportType"];
/// Fields that have an effect.
const USED: [&str; 14] = [
    "url",
    "httpUrl",
    "serverUrl",
    "type",
    "transport",
    "transportType",
    "headers",
    "headersFile",
    "allowPlain",
    "disabled",
    "enabled",
    "mode",
    "era",
    "watch",
];

/// Whether the entry describes a remote server. The error says why it describes nothing that can be hosted.
pub(super) fn is_remote(fields: &Map<String, Value>) -> Result<bool, String> {
    let address = ADDRESSES.into_iter().find(|name| fields.get(*name).is_some_and(|value| !value.is_null()));
    let command = fields.get("command").is_some_and(|value| !value.is_null());
    let remote = match (address, command) {
        (Some(address), true) => return Err(format!("it has both `command` and `{address}`: keep one of them")),
        (address, _) => address.is_some(),
    };
    match transport(fields) {
        None => Ok(remote),
        Some("stdio") if !remote => Ok(false),
        Some("stdio") => Err("its type is \"stdio\", but it has an address and no `command`".to_owned()),
        Some("http" | "sse" | "streamable-http" | "streamableHttp" | "streamable_http") if remote => Ok(true),
        // Programs that have a `transport` of their own are still programs.
        Some("http" | "sse" | "streamable-http" | "streamableHttp" | "streamable_http") if command => {
            Err("its type is that of a remote server, but it has a `command` and no `url`".to_owned())
        }
        Some("http" | "sse" | "streamable-http" | "streamableHttp" | "streamable_http") => {
            Err("it is a remote server without a `url`".to_owned())
        }
        Some("ws" | "websocket") => {
            Err("MCP has no WebSocket transport: only \"http\" and \"sse\" can be hosted".to_owned())
        }
        Some(other) => Err(format!("its type {other:?} is not known: \"stdio\", \"http\" and \"sse\" can be hosted")),
    }
}

fn transport(fields: &Map<String, Value>) -> Option<&str> {
    TRANSPORTS.into_iter().find_map(|name| fields.get(name).and_then(Value::as_str))
}

impl Reader<'_> {
    pub(super) fn remote_spec(&mut self, name: &str, fields: &Map<String, Value>) -> Result<ServerSpec, String> {
        let mut wrong = Mistakes::default();
        wrong.0.extend(refuse_inline_headers(fields).err());
        let name = wrong.or_value(self.name(name));
        let remote = wrong.or_value(self.remote(fields));
        let settled = wrong.or_value(self.settle(fields, &USED, &Bounds::REMOTE));
        let (Some(name), Some(remote), Some(settled), []) = (name, remote, settled, &*wrong.0) else {
            return Err(wrong.0.join("; "));
        };
        let mut spec = settled.put_into(ServerSpec::remote(name, remote));
        if transport(fields) == Some("sse") && !fields.contains_key("era") {
            spec.era = EraPin::Sse;
            let field = TRANSPORTS.into_iter().find(|name| fields.contains_key(*name)).unwrap_or("type");
            self.note(field, Kind::Changed, "its era is `sse`; give `\"era\": \"auto\"` to let staithe find out");
        }
        Ok(spec)
    }

    fn remote(&mut self, fields: &Map<String, Value>) -> Result<Remote, String> {
        let mut wrong = Mistakes::default();
        let url = self.address(fields).and_then(|url| url.parse().map_err(|error: BadRemote| error.to_string()));
        let url: Option<RemoteUrl> = wrong.or_value(url);
        let headers_file = wrong.or_value(self.headers_file(fields));
        let allow_plain = wrong.or_value(match fields.get("allowPlain") {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(allowed)) => Ok(*allowed),
            Some(_) => Err("`allowPlain` is neither true nor false".to_owned()),
        });
        let (Some(url), Some(headers_file), Some(allow_plain)) = (url, headers_file, allow_plain) else {
            return Err(wrong.0.join("; "));
        };
        Remote::new(url, headers_file, allow_plain).map_err(|error| error.to_string())
    }

    fn headers_file(&mut self, fields: &Map<String, Value>) -> Result<Option<String>, String> {
        match fields.get("headersFile") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => {
                let path = self.expand("headersFile", text)?;
                self.absolute("headersFile", path).map(Some)
            }
            Some(_) => Err("`headersFile` is not text".to_owned()),
        }
    }

    fn address(&mut self, fields: &Map<String, Value>) -> Result<String, String> {
        let field = ADDRESSES.into_iter().find(|name| fields.get(*name).is_some_and(|value| !value.is_null()));
        let field = field.unwrap_or("url");
        match fields.get(field) {
            Some(Value::String(text)) => self.expand(field, text),
            _ => Err(format!("`{field}` is not text")),
        }
    }
}

/// Credentials belong into a file that the daemon reads at each connection, never into its database.
fn refuse_inline_headers(fields: &Map<String, Value>) -> Result<(), String> {
    match fields.get("headers") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(headers)) if headers.is_empty() => Ok(()),
        Some(_) => {
            Err("its `headers` are not taken, because staithe keeps no credentials of remote servers: write them as \
            `Name: value` lines into a file that only staithe's user can read, and give its full path as `headersFile`"
                .to_owned())
        }
    }
}
