-- The key of each principal, under which the ledger's records name it and commit to what it sends. Without its key nothing in a
-- record leads back to it.
CREATE TABLE subjects (
    principal TEXT NOT NULL PRIMARY KEY,
    secret TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL
);
