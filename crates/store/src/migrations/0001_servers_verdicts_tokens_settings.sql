-- Every desired state that a server ever had. Rows are added, never changed or deleted: a number means one thing for ever.
CREATE TABLE generations (
    server TEXT NOT NULL,
    generation BIGINT NOT NULL CHECK (generation > 0),
    spec_json TEXT NOT NULL,
    made_at_ms BIGINT NOT NULL,
    PRIMARY KEY (server, generation)
);

-- The servers of now. `enabled` is the operator's switch; turning it makes no generation.
CREATE TABLE servers (
    name TEXT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL,
    enabled BIGINT NOT NULL CHECK (enabled IN (0, 1)),
    FOREIGN KEY (name, generation) REFERENCES generations (server, generation)
);

-- What the last probe of a server found. No foreign key: a probe may end after its server was removed.
CREATE TABLE verdicts (
    server TEXT NOT NULL PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    verdict TEXT NOT NULL,
    discovered TEXT,
    probed_at_ms BIGINT NOT NULL
);

-- Machine tokens: only their hash.
CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    principal TEXT NOT NULL,
    server TEXT,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    revoked_at_ms BIGINT
);

-- Small facts about this host, by name.
CREATE TABLE settings (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
