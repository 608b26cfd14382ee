-- Revisions and sealed secrets. SQLite has no row-level security and no other process to tell.

-- Secrets are sealed from here on (domain/keyring.rs). What lay here in the clear is dropped rather than kept: tokens
-- of agents have to be set again. No release ever wrote it.
ALTER TABLE voice_agents DROP COLUMN auth_token;
ALTER TABLE voice_agents ADD COLUMN sealed_auth_token BLOB;
ALTER TABLE voice_agents ADD COLUMN updated_by TEXT NOT NULL DEFAULT 'voxgate';
DROP TABLE token_keys;
CREATE TABLE token_keys (
    generation INTEGER PRIMARY KEY,
    kid TEXT NOT NULL UNIQUE,
    sealed_secret BLOB NOT NULL
) STRICT;

-- An agent as it was after each change; the newest is the agent as it is. Never changed, but for its secret's wrapping.
CREATE TABLE voice_agent_revisions (
    tenant_id BLOB NOT NULL,
    voice_agent_id BLOB NOT NULL,
    revision INTEGER NOT NULL CHECK (revision > 0),
    spec TEXT NOT NULL,
    sealed_auth_token BLOB,
    status TEXT NOT NULL,
    updated_by TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, voice_agent_id, revision),
    FOREIGN KEY (tenant_id, voice_agent_id) REFERENCES voice_agents (tenant_id, id) ON DELETE CASCADE
) STRICT;
INSERT INTO voice_agent_revisions (tenant_id, voice_agent_id, revision, spec, status, updated_by, updated_at)
SELECT tenant_id, id, revision, json_object(
    'name', name, 'ws_url', ws_url, 'audio_format', json(audio_format), 'external_agent_id', external_agent_id,
    'transfer_destination', transfer_destination, 'max_concurrent', max_concurrent,
    'reserved_inbound', reserved_inbound, 'token_lifetime', token_lifetime, 'subprotocol', subprotocol,
    'ws_disconnect_action', ws_disconnect_action, 'metadata', json(metadata), 'behavior', json(behavior)),
    status, updated_by, updated_at
FROM voice_agents;
CREATE INDEX voice_agents_by_name ON voice_agents (tenant_id, name);
-- For operators, who know a key by its id alone.
CREATE UNIQUE INDEX api_keys_by_id ON api_keys (id);
