//! Servers with a `url`: they run elsewhere and are reached over HTTP.

use super::{Kind, Reader};
use model::{EraPin, Remote, RemoteUrl, ServerSpec};
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
        refuse_inline_headers(fields)?;
        let name = self.name(name)?;
        let url: RemoteUrl = self.address(fields)?.parse().map_err(|error: model::BadRemote| error.to_string())?;
        let headers_file = match fields.get("headersFile") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => {
                let path = self.expand("headersFile", text)?;
                Some(self.absolute("headersFile", path)?)
            }
            Some(_) => return Err("`headersFile` is not text".to_owned()),
        };
        let allow_plain = match fields.get("allowPlain") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(allowed)) => *allowed,
            Some(_) => return Err("`allowPlain` is neither true nor false".to_owned()),
        };
        let remote = Remote::new(url, headers_file, allow_plain).map_err(|error| error.to_string())?;
        let mut spec = ServerSpec::remote(name, remote);
        self.settle(&mut spec, fields, &USED)?;
        if transport(fields) == Some("sse") && !fields.contains_key("era") {
            spec.era = EraPin::Sse;
            let field = TRANSPORTS.into_iter().find(|name| fields.contains_key(*name)).unwrap_or("type");
            self.note(field, Kind::Changed, "its era is `sse`; give `\"era\": \"auto\"` to let staithe find out");
        }
        Ok(spec)
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
