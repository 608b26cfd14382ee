-- Texts that are compared or ordered are COLLATE "C": byte for byte, as in SQLite.

CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    default_ws_url text,
    -- Not a foreign key: deleting an agent clears it in the same transaction.
    default_voice_agent_id uuid,
    max_concurrent integer NOT NULL CHECK (max_concurrent >= 0),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX tenants_by_name ON tenants (name, created_at, id);

CREATE TABLE api_keys (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    id uuid NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    scopes jsonb NOT NULL,
    sandbox boolean NOT NULL,
    rate_limit_per_min integer NOT NULL CHECK (rate_limit_per_min > 0),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);
CREATE INDEX api_keys_newest_first ON api_keys (tenant_id, created_at DESC, id DESC);

-- One row: the first replica to start writes it, the others read it.
CREATE TABLE token_keys (
    generation integer PRIMARY KEY,
    kid text NOT NULL UNIQUE,
    secret bytea NOT NULL
);

CREATE TABLE voice_agents (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    id uuid NOT NULL,
    name text COLLATE "C" NOT NULL,
    ws_url text NOT NULL,
    auth_token text,
    audio_format jsonb NOT NULL,
    external_agent_id text COLLATE "C",
    transfer_destination text,
    max_concurrent integer NOT NULL CHECK (max_concurrent > 0),
    reserved_inbound integer NOT NULL CHECK (reserved_inbound BETWEEN 0 AND max_concurrent),
    token_lifetime text NOT NULL,
    subprotocol text NOT NULL,
    ws_disconnect_action text NOT NULL,
    metadata jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('ACTIVE', 'PAUSED', 'ARCHIVED')),
    revision bigint NOT NULL CHECK (revision > 0),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX voice_agents_newest_first ON voice_agents (tenant_id, created_at DESC, id DESC);
CREATE INDEX voice_agents_by_external_id ON voice_agents (tenant_id, external_agent_id)
    WHERE external_agent_id IS NOT NULL;

-- Outlives its agent: the same request does not make a deleted agent again.
CREATE TABLE voice_agent_create_requests (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    request_id uuid NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    voice_agent_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, request_id)
);

-- Sessions outlive their agent. No foreign key to tenants either: with one, every call would lock its tenant's row.
CREATE TABLE sessions (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    voice_agent_id uuid NOT NULL,
    voice_agent_revision bigint NOT NULL,
    lease_id text COLLATE "C" NOT NULL,
    fence bigint NOT NULL,
    direction text NOT NULL CHECK (direction IN ('INBOUND', 'OUTBOUND')),
    node_id text COLLATE "C",
    sandbox boolean NOT NULL,
    routing jsonb NOT NULL,
    metadata jsonb NOT NULL,
    state jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('ACTIVE', 'ENDED', 'EXPIRED')),
    outcome text,
    started_at timestamptz NOT NULL,
    answered_at timestamptz,
    ended_at timestamptz,
    lease_expires_at timestamptz NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, lease_id),
    CHECK ((status = 'ACTIVE') = (outcome IS NULL)),
    CHECK ((status = 'ACTIVE') = (ended_at IS NULL))
);
CREATE UNIQUE INDEX sessions_one_active_of_call ON sessions (tenant_id, call_id) WHERE status = 'ACTIVE';
CREATE INDEX sessions_of_call ON sessions (tenant_id, call_id, started_at DESC);
CREATE INDEX sessions_active_of_agent ON sessions (tenant_id, voice_agent_id, started_at, id) WHERE status = 'ACTIVE';
CREATE INDEX sessions_due ON sessions (lease_expires_at) WHERE status = 'ACTIVE';
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE status <> 'ACTIVE';

CREATE TABLE operations (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    session_id uuid NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    verb text NOT NULL,
    -- The verb as it was sent, for an acknowledgement that comes after everybody has left.
    request jsonb NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    state text NOT NULL CHECK (state IN ('ACCEPTED', 'DISPATCHED', 'SUCCEEDED', 'FAILED', 'UNKNOWN')),
    accepted_at timestamptz NOT NULL,
    dispatched_at timestamptz,
    finished_at timestamptz,
    result jsonb,
    failure jsonb,
    PRIMARY KEY (tenant_id, id),
    -- Two replicas that are given one key at once: one of them writes this row.
    UNIQUE (tenant_id, call_id, idempotency_key)
);
