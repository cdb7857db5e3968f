//! Every key, in the order in which it is shown, with its reason.

use super::{Config, Field};

/// One key of the file.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Why there is such a key and why its default is what it is.
    pub(super) why: &'static str,
    pub(super) field: fn(&mut Config) -> Field<'_>,
}

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "public_url",
        why: "Base of the addresses that clients are told, where a proxy stands in front. Default: the public listener.",
        field: |c| Field::BaseUrl(&mut c.public_url),
    },
    Key {
        name: "state_dir",
        why: "Where everything is kept; `--state-dir` goes first. Default: see `staithe --help`.",
        field: |c| Field::Directory(&mut c.state_dir),
    },
    Key {
        name: "allowed_hosts",
        why: "Host names that requests may carry beside loopback names; guards browsers against DNS rebinding.",
        field: |c| Field::Words(&mut c.allowed_hosts),
    },
    Key {
        name: "allowed_origins",
        why: "Web pages that may call, like \"https://app.example.com\". None by default: agents send no Origin.",
        field: |c| Field::Words(&mut c.allowed_origins),
    },
    Key {
        name: "listen.public",
        why: "Where MCP clients come in. Loopback by default: TLS belongs in front of anything else.",
        field: |c| Field::Address(&mut c.public),
    },
    Key {
        name: "listen.operator",
        why: "Where /healthz, /readyz and /metrics answer. Loopback only: it asks nobody for a token.",
        field: |c| Field::Address(&mut c.operator),
    },
    Key {
        name: "auth.open",
        why: "true asks callers for no token; only with a loopback listener. Off by default: tools can do harm.",
        field: |c| Field::Flag(&mut c.open),
    },
    Key {
        name: "store.postgres",
        why: "PostgreSQL connection string. Default: SQLite in the state directory, enough for one machine.",
        field: |c| Field::Secret(&mut c.postgres),
    },
    Key {
        name: "log.level",
        why: "What is traced on stderr: error, warn, info, debug, trace, or a filter like \"info,staithe_gateway=debug\".",
        field: |c| Field::Filter(&mut c.log_level),
    },
    Key {
        name: "log.format",
        why: "\"text\" for people, \"json\" for collectors.",
        field: |c| Field::Choice(&mut c.log_format),
    },
    Key {
        name: "telemetry.per_tool",
        why: "true counts calls in /metrics by tool too. Off: each tool costs a time series.",
        field: |c| Field::Flag(&mut c.per_tool),
    },
    Key {
        name: "telemetry.otlp_endpoint",
        why: "Base address of a collector that takes traces of calls (OTLP over HTTP), like \"http://127.0.0.1:4318\". None by default.",
        field: |c| Field::Collector(&mut c.otlp_endpoint),
    },
    Key {
        name: "ledger.mode",
        why: "What a call waits for: \"balanced\" (the kernel has its record), \"strict\" (the disk has it), \"async\" (nothing); \"off\" records no calls, and that it does not. Balanced loses nothing when staithe ends, and 10 ms of records when the machine does.",
        field: |c| Field::Choice(&mut c.ledger.mode),
    },
    Key {
        name: "ledger.strict_tools",
        why: "Tools, like \"files/delete\" or \"files/*\", whose calls are strict in every mode, as are those that their server calls destructive.",
        field: |c| Field::Words(&mut c.ledger.strict_tools),
    },
    Key {
        name: "ledger.on_full",
        why: "\"deny\" refuses calls that cannot be recorded: a full disk must not hide anything. \"continue\" makes them, and records how many there were.",
        field: |c| Field::Choice(&mut c.ledger.on_full),
    },
    Key {
        name: "ledger.content",
        why: "What is kept of arguments and results, encrypted under a key of their principal: \"nothing\", \"redacted\" (without what looks like a secret), \"full\".",
        field: |c| Field::Choice(&mut c.ledger.content),
    },
    Key {
        name: "ledger.content_bytes",
        why: "How much of that is kept; the oldest goes first.",
        field: |c| Field::Bytes64(&mut c.ledger.content_bytes),
    },
    Key {
        name: "ledger.anchors",
        why: "Directories, best on other disks, that keep a copy of the latest checkpoint: a ledger that is older than that is refused at the start.",
        field: |c| Field::Directories(&mut c.ledger.anchors),
    },
    Key {
        name: "ledger.policy",
        why: "File with the witnesses that are asked to cosign checkpoints, and how many are enough (C2SP tlog-policy). None by default.",
        field: |c| Field::File(&mut c.ledger.policy),
    },
    Key {
        name: "ledger.witness_interval",
        why: "How often witnesses are asked, where there is something new.",
        field: |c| Field::Time(&mut c.ledger.witness_interval),
    },
    Key {
        name: "ledger.stale_after",
        why: "When the last quorum of witnesses is older, `status` and the metrics call it stale.",
        field: |c| Field::Time(&mut c.ledger.stale_after),
    },
    Key {
        name: "ledger.require_witness",
        why: "\"warn\" only says that witnesses are stale; \"refuse\" refuses calls until they are not.",
        field: |c| Field::Choice(&mut c.ledger.require_witness),
    },
    Key {
        name: "ledger.public",
        why: "\"nothing\", or \"hashes\": checkpoints, keys and hashes are for everybody. Entries never are.",
        field: |c| Field::Choice(&mut c.ledger.public),
    },
    Key {
        name: "watch.quiet",
        why: "A server that was not heard for so long, and has no call that explains it, is asked whether it lives.",
        field: |c| Field::Time(&mut c.hosting.quiet),
    },
    Key {
        name: "watch.deadline",
        why: "How long the answer to that may take.",
        field: |c| Field::Time(&mut c.hosting.probe_deadline),
    },
    Key {
        name: "limits.line_bytes",
        why: "Longest message of a server; 16 MiB holds an image in Base64.",
        field: |c| Field::Bytes(&mut c.hosting.line_bytes),
    },
    Key {
        name: "limits.queue_bytes",
        why: "What may wait for one server's stdin before calls are refused.",
        field: |c| Field::Bytes(&mut c.hosting.queue_bytes),
    },
    Key {
        name: "limits.mailbox_bytes",
        why: "Notifications that may wait for one slow caller before the oldest are dropped.",
        field: |c| Field::Bytes(&mut c.hosting.mailbox_bytes),
    },
    Key {
        name: "limits.start_timeout",
        why: "How long a server may take to start; a first `npx` installs packages meanwhile.",
        field: |c| Field::Time(&mut c.hosting.start_timeout),
    },
    Key {
        name: "limits.probe_timeout",
        why: "How long the probe of the era waits before it takes silence for \"legacy\".",
        field: |c| Field::Time(&mut c.hosting.probe_timeout),
    },
    Key {
        name: "limits.ready_wait",
        why: "How long a call waits for a process that is starting.",
        field: |c| Field::Time(&mut c.hosting.ready_wait),
    },
    Key {
        name: "limits.stop_grace",
        why: "What a stopping server gets after its stdin closed, and again after SIGTERM.",
        field: |c| Field::Time(&mut c.hosting.stop_grace),
    },
    Key {
        name: "limits.idle_ttl",
        why: "A process that nobody uses for so long is stopped; the next call starts it again.",
        field: |c| Field::Time(&mut c.hosting.idle_ttl),
    },
    Key {
        name: "limits.instance_memory",
        why: "Resident memory of an instance with all that it starts. No default: only you know what a server needs.",
        field: |c| Field::Bound("memory", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_processes",
        why: "Processes of an instance; more than a browser with its tabs, so that only a runaway meets it.",
        field: |c| Field::Bound("processes", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_open_files",
        why: "Open files of each process of an instance: a leak fails there and not elsewhere.",
        field: |c| Field::Bound("openFiles", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_cpu",
        why: "Percent of one core that an instance may use. No default: a server that computes is not ill.",
        field: |c| Field::Bound("cpu", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instance_output",
        why: "Bytes per second that an instance may write; over it the server waits. Far above what tools answer.",
        field: |c| Field::Bound("outputRate", &mut c.hosting.instance),
    },
    Key {
        name: "limits.instances_per_principal",
        why: "Processes of one server that one principal may have: nobody takes the whole server from the others.",
        field: |c| Field::Count(&mut c.hosting.instances_per_principal),
    },
    Key {
        name: "limits.instances_per_server",
        why: "Processes of one server: one runaway server must not take the machine.",
        field: |c| Field::Count(&mut c.hosting.instances_per_server),
    },
    Key { name: "limits.instances", why: "Processes in all.", field: |c| Field::Count(&mut c.hosting.instances) },
    Key {
        name: "limits.pool",
        why: "Processes of one principal and client in the mode `exclusive`.",
        field: |c| Field::Count(&mut c.hosting.pool),
    },
    Key {
        name: "limits.subscriptions",
        why: "Resources that the clients of one process may be subscribed to.",
        field: |c| Field::Count(&mut c.hosting.subscriptions),
    },
    Key {
        name: "limits.sessions",
        why: "Open sessions in all; one costs a few KiB.",
        field: |c| Field::Count(&mut c.hosting.sessions),
    },
    Key {
        name: "limits.sessions_per_principal",
        why: "Open sessions of one principal: one client that leaks them must not shut the others out.",
        field: |c| Field::Count(&mut c.hosting.sessions_per_principal),
    },
    Key {
        name: "limits.session_idle",
        why: "A session without request or stream for so long ends.",
        field: |c| Field::Time(&mut c.hosting.session_idle),
    },
    Key {
        name: "limits.ask_waits",
        why: "How long a request of a server waits for its client to open a stream; some clients never do.",
        field: |c| Field::Time(&mut c.hosting.ask_waits),
    },
    Key {
        name: "limits.replay_events",
        why: "Events of one session that are kept for a client whose connection broke.",
        field: |c| Field::Count(&mut c.hosting.replay_events),
    },
    Key {
        name: "limits.replay_bytes",
        why: "Their bytes; the newest event is kept whatever its size.",
        field: |c| Field::Bytes(&mut c.hosting.replay_bytes),
    },
    Key {
        name: "limits.replay_bytes_per_principal",
        why: "What all sessions of one principal keep: many sessions must not take the host's memory.",
        field: |c| Field::Bytes(&mut c.hosting.replay_bytes_per_principal),
    },
    Key {
        name: "limits.replay_streams",
        why: "Streams of one session that wait for their client to come back.",
        field: |c| Field::Count(&mut c.hosting.replay_streams),
    },
    Key {
        name: "limits.replay_keep",
        why: "How long a stream can be resumed after its response was sent.",
        field: |c| Field::Time(&mut c.hosting.replay_keep),
    },
    Key {
        name: "limits.log_bytes",
        why: "Size at which a server's log is rotated; one older file is kept.",
        field: |c| Field::Bytes64(&mut c.hosting.log_bytes),
    },
    Key {
        name: "limits.body_bytes",
        why: "Largest request; more than any argument that a model writes.",
        field: |c| Field::Bytes(&mut c.serving.body_bytes),
    },
    Key {
        name: "limits.depth",
        why: "Deepest nesting of JSON in a request; 64 is the most.",
        field: |c| Field::CountSize(&mut c.serving.depth),
    },
    Key {
        name: "limits.header_bytes",
        why: "Largest head of a request.",
        field: |c| Field::Bytes(&mut c.serving.header_bytes),
    },
    Key {
        name: "limits.header_count",
        why: "Most headers of a request.",
        field: |c| Field::CountSize(&mut c.serving.header_count),
    },
    Key {
        name: "limits.header_timeout",
        why: "How long a client may take to send its head.",
        field: |c| Field::Time(&mut c.serving.header_timeout),
    },
    Key {
        name: "limits.body_timeout",
        why: "How long a client may take to send its body.",
        field: |c| Field::Time(&mut c.serving.body_timeout),
    },
    Key {
        name: "limits.call_timeout",
        why: "How long one call may take.",
        field: |c| Field::Time(&mut c.serving.call_timeout),
    },
    Key {
        name: "limits.call_timeout_max",
        why: "How long a call may take whose time begins anew with each progress notification; a server must allow that.",
        field: |c| Field::Time(&mut c.serving.call_timeout_max),
    },
    Key {
        name: "limits.ask_timeout",
        why: "How long a client may take to answer what a server asks during a call: a person may have to be found.",
        field: |c| Field::Time(&mut c.serving.ask_timeout),
    },
    Key {
        name: "limits.stream_after",
        why: "A call that takes longer is answered as a stream; until then an error keeps its HTTP status.",
        field: |c| Field::Time(&mut c.serving.stream_after),
    },
    Key {
        name: "limits.keep_alive",
        why: "How often a quiet stream says that it lives; proxies cut silence after 30 to 60 s.",
        field: |c| Field::Time(&mut c.serving.keep_alive),
    },
    Key {
        name: "limits.poll_after",
        why: "Streams of 2025-11-25 clients close after so long and are asked for again; off, as each return costs a request.",
        field: |c| Field::Pause(&mut c.serving.poll_after),
    },
    Key {
        name: "limits.write_timeout",
        why: "How long a client may leave its stream unread before it counts as gone.",
        field: |c| Field::Time(&mut c.serving.write_timeout),
    },
    Key {
        name: "limits.drain",
        why: "How long calls in flight may finish when the host stops.",
        field: |c| Field::Time(&mut c.serving.drain),
    },
    Key {
        name: "limits.connections",
        why: "Open connections in all.",
        field: |c| Field::CountSize(&mut c.serving.connections),
    },
    Key {
        name: "limits.streams_per_principal",
        why: "Open streams of one principal.",
        field: |c| Field::CountSize(&mut c.serving.streams_per_principal),
    },
    Key {
        name: "limits.calls_per_principal",
        why: "Calls of one principal at one time.",
        field: |c| Field::CountSize(&mut c.serving.calls_per_principal),
    },
    Key {
        name: "limits.held_timeout",
        why: "How long a call that has asked its client is held for the answers; people take their time.",
        field: |c| Field::Time(&mut c.serving.held_timeout),
    },
    Key {
        name: "limits.held_rounds",
        why: "How often one call may ask its client.",
        field: |c| Field::Count(&mut c.serving.held_rounds),
    },
    Key {
        name: "limits.held_per_principal",
        why: "Held calls of one principal.",
        field: |c| Field::CountSize(&mut c.serving.held_per_principal),
    },
    Key {
        name: "limits.held_per_server",
        why: "Held calls of one server.",
        field: |c| Field::CountSize(&mut c.serving.held_per_server),
    },
    Key {
        name: "limits.turn_wait",
        why: "How long a call waits for another that could be meant when the server asks something.",
        field: |c| Field::Time(&mut c.serving.turn_wait),
    },
];
