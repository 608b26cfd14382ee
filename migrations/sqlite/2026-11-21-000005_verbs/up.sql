-- What verbs write down of a session. The default is what a release that does not know the column means.
ALTER TABLE sessions ADD COLUMN record TEXT NOT NULL DEFAULT '{}';

-- When the session ends however well it goes.
ALTER TABLE sessions ADD COLUMN ends_at INTEGER;
CREATE INDEX sessions_over ON sessions (ends_at) WHERE status = 'ACTIVE' AND ends_at IS NOT NULL;

-- Operations of which it is not known what became of them.
CREATE INDEX operations_open ON operations (accepted_at) WHERE state NOT IN ('SUCCEEDED', 'FAILED');

CREATE TABLE session_log (
    tenant_id BLOB NOT NULL,
    session_id BLOB NOT NULL,
    entry INTEGER NOT NULL CHECK (entry > 0),
    logged_at INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (tenant_id, session_id, entry)
) STRICT;

-- Written with the change that they tell of. Within a session 1, 2, 3 … without gaps.
CREATE TABLE events (
    tenant_id BLOB NOT NULL,
    id BLOB NOT NULL,
    kind TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    session_id BLOB NOT NULL,
    call_id TEXT NOT NULL,
    session_sequence INTEGER NOT NULL CHECK (session_sequence > 0),
    data TEXT NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, session_id, session_sequence)
) STRICT;

-- Callback tokens that are good for nothing any more, until they would have expired.
CREATE TABLE revoked_tokens (
    tenant_id BLOB NOT NULL,
    jti BLOB NOT NULL,
    -- Revoked by a sandbox key: of a sandbox call, or of none.
    sandbox INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000),
    until INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, jti)
) STRICT;
CREATE INDEX revoked_tokens_new ON revoked_tokens (revoked_at);
