//! Settings that are staithe's own, and fields that have no effect here.

use super::{Kind, Mistakes, Note, Reader, join, plain_text};
use model::{Bounds, EraPin, Mode, ServerSpec, Watch};
use serde_json::{Map, Value, json};
use std::fmt;
use std::str::FromStr;

/// What programs and remote servers both have.
pub(super) struct Settled {
    enabled: bool,
    mode: Mode,
    era: EraPin,
    watch: Watch,
    bounds: Bounds,
}

impl Settled {
    pub(super) fn put_into(self, spec: ServerSpec) -> ServerSpec {
        let Self { enabled, mode, era, watch, bounds } = self;
        ServerSpec { enabled, mode, era, watch, bounds, ..spec }
    }
}

impl Reader<'_> {
    /// What both kinds of server have, and a note for each field that has no effect.
    pub(super) fn settle(
        &mut self,
        fields: &Map<String, Value>,
        used: &[&str],
        bounds: &[&str],
    ) -> Result<Settled, String> {
        let mut wrong = Mistakes::default();
        let enabled = wrong.or_value(self.enabled(fields));
        let mut settled = Settled {
            enabled: enabled.unwrap_or_default(),
            mode: self.choice(fields, "mode"),
            era: self.choice(fields, "era"),
            watch: self.watch(fields),
            bounds: Bounds::default(),
        };
        for name in bounds {
            match fields.get(*name) {
                None | Some(Value::Null) => {}
                // A bound that is not kept would be missed only when it is needed: such a server is not taken.
                Some(value) => {
                    let set = settled.bounds.set(name, &plain_text(value).unwrap_or_default());
                    wrong.0.extend(set.err().map(|error| error.to_string()));
                }
            }
        }
        if settled.mode == Mode::Shared && settled.bounds.spares.is_some_and(|spares| spares > 0) {
            self.note("spares", Kind::NotUsed, "in the mode `shared` one process serves everybody");
        }
        let known = |field: &str| used.contains(&field) || bounds.contains(&field);
        for field in fields.keys().filter(|field| !known(field)) {
            match field.as_str() {
                "limits" | "bounds" | "resources" => {
                    let there = bounds.join(", ");
                    self.note(field, Kind::NotUsed, format!("staithe does not know it; beside it there are {there}"));
                }
                field => self.note(field, Kind::NotUsed, why_not_used(field)),
            }
        }
        if !wrong.0.is_empty() {
            return Err(wrong.0.join("; "));
        }
        if let Some(from) = self.variables() {
            self.notes.push(Note { path: self.path.to_owned(), kind: Kind::Changed, text: from });
        }
        Ok(settled)
    }

    /// A setting that is staithe's own. Another tool's field of that name is not taken for it.
    fn choice<T: FromStr<Err: fmt::Display> + Default>(&mut self, fields: &Map<String, Value>, field: &str) -> T {
        let Some(given) = fields.get(field) else { return T::default() };
        match given.as_str().unwrap_or_default().parse() {
            Ok(chosen) => chosen,
            Err(error) => {
                self.note(field, Kind::NotUsed, error.to_string());
                T::default()
            }
        }
    }

    /// With a mistake none of it is used. Another tool's field of that name is not taken for it.
    fn watch(&mut self, fields: &Map<String, Value>) -> Watch {
        let given = match fields.get("watch") {
            None | Some(Value::Null) => return Watch::default(),
            Some(given) => given,
        };
        let Some(times) = given.as_object() else {
            self.note("watch", Kind::NotUsed, "it is not an object");
            return Watch::default();
        };
        let before = self.notes.len();
        for (field, value) in times {
            match value.as_object().filter(|_| field == "toolTimeouts") {
                Some(tools) => {
                    for (tool, time) in tools {
                        self.look(&join(&join("watch", field), tool), field, &json!({ tool: time }));
                    }
                }
                None => self.look(&join("watch", field), field, value),
            }
        }
        if self.notes.len() == before {
            return serde_json::from_value(given.clone()).unwrap_or_default();
        }
        self.note("watch", Kind::NotUsed, "with a mistake in it, none of it is used");
        Watch::default()
    }

    /// Notes a field that cannot be, by its path within the server, and what would be right.
    fn look(&mut self, path: &str, field: &str, value: &Value) {
        if serde_json::from_value::<Watch>(json!({ field: value })).is_ok() {
            return;
        }
        let wanted = match field {
            "progressExtends" => "it must be true or false",
            "ping" => "it must be \"auto\" or \"never\"",
            "toolTimeouts" if !value.is_object() => "it must be an object: a time for each tool",
            "callTimeout" | "callTimeoutMax" | "toolTimeouts" | "quiet" | "probeDeadline" => {
                "it must be a time above 0 like \"500 ms\", \"10 s\", \"15 min\" or \"1 h\""
            }
            _ => {
                "staithe does not know it; there are callTimeout, toolTimeouts, progressExtends, callTimeoutMax, ping, \
                 quiet, probeDeadline"
            }
        };
        let path = format!("{}.{path}", self.path);
        self.notes.push(Note { path, kind: Kind::NotUsed, text: wanted.to_owned() });
    }

    fn enabled(&mut self, fields: &Map<String, Value>) -> Result<bool, String> {
        for (field, stops) in [("disabled", true), ("enabled", false)] {
            match fields.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::Bool(value)) if *value == stops => {
                    self.note(field, Kind::Changed, "it is added stopped; `staithe start` lets it run");
                    return Ok(false);
                }
                Some(Value::Bool(_)) => {}
                Some(_) => return Err(format!("`{field}` is neither true nor false")),
            }
        }
        Ok(true)
    }

    fn variables(&self) -> Option<String> {
        let names: Vec<_> = self.expander.used.iter().map(|name| format!("${{{name}}}")).collect();
        (!names.is_empty()).then(|| format!("{} got the value that it has here and now", names.join(", ")))
    }
}

fn why_not_used(field: &str) -> &'static str {
    match field {
        "alwaysAllow" | "autoApprove" | "autoAllow" | "trust" => {
            "which calls need a person's consent is the client's decision"
        }
        "timeout" | "startupTimeout" | "toolTimeout" | "initTimeout" => {
            "staithe has one limit for every server: see `staithe check`"
        }
        "dev" => "reloading on file changes is the editor's own feature",
        "sandbox" | "sandboxEnabled" => "staithe does not have that sandbox: the server runs with its own rights",
        "description" | "icon" | "gallery" | "version" | "displayName" | "note" | "_comment" | "comment" => {
            "it is for people to read"
        }
        "disabledTools" | "includeTools" | "excludeTools" | "tools" => "staithe shows every tool of a server",
        "headers" | "headersFile" | "allowPlain" => "it is for remote servers",
        "oauth" | "auth" => "staithe cannot log in to remote servers yet; `headersFile` takes a token",
        "env" | "envFile" | "args" | "cwd" => "it is for programs",
        field if Bounds::NAMES.contains(&field) => "it is for programs",
        "transport" | "transportType" => "the command decides: stdin and stdout",
        _ => "staithe does not know it",
    }
}
