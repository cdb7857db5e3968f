-- Legacy sessions of clients. They outlive the daemon that opened them.
CREATE TABLE sessions (
    id TEXT NOT NULL PRIMARY KEY,
    server TEXT NOT NULL,
    principal TEXT NOT NULL,
    client TEXT NOT NULL,
    revision TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    client_info TEXT NOT NULL,
    label TEXT NOT NULL,
    level TEXT,
    -- The stream of what belongs to no request, where one was opened.
    standing BIGINT,
    opened_at_ms BIGINT NOT NULL,
    used_at_ms BIGINT NOT NULL
);
CREATE INDEX sessions_of_server ON sessions (server);

-- What their clients subscribed to. No index over the address: it may be longer than an entry of one can be.
CREATE TABLE session_subscriptions (
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    uri TEXT NOT NULL
);
CREATE INDEX subscriptions_of_session ON session_subscriptions (session);

-- Calls with an event stream that their client can come back to.
CREATE TABLE open_calls (
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    stream BIGINT NOT NULL,
    upstream BIGINT NOT NULL,
    instance BIGINT NOT NULL,
    server TEXT NOT NULL,
    client_id TEXT NOT NULL,
    method TEXT NOT NULL,
    leg TEXT NOT NULL,
    deadline_ms BIGINT NOT NULL,
    PRIMARY KEY (session, stream)
);
