-- The same as in Postgres, in SQLite's types: ids are BLOBs of 16 bytes, moments INTEGERs of microseconds since 1970,
-- documents JSON in TEXT. STRICT, so that a column holds what it says.

CREATE TABLE tenants (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    default_ws_url TEXT,
    -- Not a foreign key: deleting an agent clears it in the same transaction.
    default_voice_agent_id BLOB,
    max_concurrent INTEGER NOT NULL CHECK (max_concurrent >= 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX tenants_by_name ON tenants (name, created_at, id);

CREATE TABLE api_keys (
    tenant_id BLOB NOT NULL REFERENCES tenants (id),
    id BLOB NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    scopes TEXT NOT NULL,
    sandbox INTEGER NOT NULL,
    rate_limit_per_min INTEGER NOT NULL CHECK (rate_limit_per_min > 0),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);
CREATE INDEX api_keys_newest_first ON api_keys (tenant_id, created_at DESC, id DESC);

-- One row: the first replica to start writes it, the others read it.
CREATE TABLE token_keys (
    generation INTEGER PRIMARY KEY,
    kid TEXT NOT NULL UNIQUE,
    secret BLOB NOT NULL
) STRICT;

CREATE TABLE voice_agents (
    tenant_id BLOB NOT NULL REFERENCES tenants (id),
    id BLOB NOT NULL,
    name TEXT NOT NULL,
    ws_url TEXT NOT NULL,
    auth_token TEXT,
    audio_format TEXT NOT NULL,
    external_agent_id TEXT,
    transfer_destination TEXT,
    max_concurrent INTEGER NOT NULL CHECK (max_concurrent > 0),
    reserved_inbound INTEGER NOT NULL CHECK (reserved_inbound BETWEEN 0 AND max_concurrent),
    token_lifetime TEXT NOT NULL,
    subprotocol TEXT NOT NULL,
    ws_disconnect_action TEXT NOT NULL,
    metadata TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('ACTIVE', 'PAUSED', 'ARCHIVED')),
    revision INTEGER NOT NULL CHECK (revision > 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX voice_agents_newest_first ON voice_agents (tenant_id, created_at DESC, id DESC);
CREATE INDEX voice_agents_by_external_id ON voice_agents (tenant_id, external_agent_id)
    WHERE external_agent_id IS NOT NULL;

-- Outlives its agent: the same request does not make a deleted agent again.
CREATE TABLE voice_agent_create_requests (
    tenant_id BLOB NOT NULL REFERENCES tenants (id),
    request_id BLOB NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    voice_agent_id BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, request_id)
) STRICT;

-- Sessions outlive their agent. No foreign key to tenants either: with one, every call would lock its tenant's row.
CREATE TABLE sessions (
    tenant_id BLOB NOT NULL,
    id BLOB NOT NULL,
    call_id TEXT NOT NULL,
    voice_agent_id BLOB NOT NULL,
    voice_agent_revision INTEGER NOT NULL,
    lease_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    direction TEXT NOT NULL CHECK (direction IN ('INBOUND', 'OUTBOUND')),
    node_id TEXT,
    sandbox INTEGER NOT NULL,
    routing TEXT NOT NULL,
    metadata TEXT NOT NULL,
    state TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('ACTIVE', 'ENDED', 'EXPIRED')),
    outcome TEXT,
    started_at INTEGER NOT NULL,
    answered_at INTEGER,
    ended_at INTEGER,
    lease_expires_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, lease_id),
    CHECK ((status = 'ACTIVE') = (outcome IS NULL)),
    CHECK ((status = 'ACTIVE') = (ended_at IS NULL))
) STRICT;
CREATE UNIQUE INDEX sessions_one_active_of_call ON sessions (tenant_id, call_id) WHERE status = 'ACTIVE';
CREATE INDEX sessions_of_call ON sessions (tenant_id, call_id, started_at DESC);
CREATE INDEX sessions_active_of_agent ON sessions (tenant_id, voice_agent_id, started_at, id) WHERE status = 'ACTIVE';
CREATE INDEX sessions_due ON sessions (lease_expires_at) WHERE status = 'ACTIVE';
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE status <> 'ACTIVE';

CREATE TABLE operations (
    tenant_id BLOB NOT NULL,
    id BLOB NOT NULL,
    session_id BLOB NOT NULL,
    call_id TEXT NOT NULL,
    verb TEXT NOT NULL,
    -- The verb as it was sent, for an acknowledgement that comes after everybody has left.
    request TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    state TEXT NOT NULL CHECK (state IN ('ACCEPTED', 'DISPATCHED', 'SUCCEEDED', 'FAILED', 'UNKNOWN')),
    accepted_at INTEGER NOT NULL,
    dispatched_at INTEGER,
    finished_at INTEGER,
    result TEXT,
    failure TEXT,
    PRIMARY KEY (tenant_id, id),
    -- Two replicas that are given one key at once: one of them writes this row.
    UNIQUE (tenant_id, call_id, idempotency_key)
) STRICT;
