-- Revisions, sealed secrets, and the tenant fence.

-- Secrets are sealed from here on (domain/keyring.rs). What lay here in the clear is dropped rather than kept: tokens
-- of agents have to be set again. No release ever wrote it.
ALTER TABLE voice_agents DROP COLUMN auth_token;
ALTER TABLE voice_agents ADD COLUMN sealed_auth_token bytea;
ALTER TABLE voice_agents ADD COLUMN updated_by text NOT NULL DEFAULT 'voxgate';
ALTER TABLE voice_agents ALTER COLUMN updated_by DROP DEFAULT;
DELETE FROM token_keys;
ALTER TABLE token_keys DROP COLUMN secret;
ALTER TABLE token_keys ADD COLUMN sealed_secret bytea NOT NULL;

-- An agent as it was after each change; the newest is the agent as it is. Never changed, but for its secret's wrapping.
CREATE TABLE voice_agent_revisions (
    tenant_id uuid NOT NULL,
    voice_agent_id uuid NOT NULL,
    revision bigint NOT NULL CHECK (revision > 0),
    spec jsonb NOT NULL,
    sealed_auth_token bytea,
    status text NOT NULL,
    updated_by text NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, voice_agent_id, revision),
    FOREIGN KEY (tenant_id, voice_agent_id) REFERENCES voice_agents (tenant_id, id) ON DELETE CASCADE
);
INSERT INTO voice_agent_revisions (tenant_id, voice_agent_id, revision, spec, status, updated_by, updated_at)
SELECT tenant_id, id, revision, jsonb_build_object(
    'name', name, 'ws_url', ws_url, 'audio_format', audio_format, 'external_agent_id', external_agent_id,
    'transfer_destination', transfer_destination, 'max_concurrent', max_concurrent,
    'reserved_inbound', reserved_inbound, 'token_lifetime', token_lifetime, 'subprotocol', subprotocol,
    'ws_disconnect_action', ws_disconnect_action, 'metadata', metadata, 'behavior', behavior),
    status, updated_by, updated_at
FROM voice_agents;
CREATE INDEX voice_agents_by_name ON voice_agents (tenant_id, name);

-- The fence. A transaction says whose rows it reaches by SET LOCAL voxgate.tenant; one that says nothing reaches none.
-- Each function stands in a subselect of the policies, so that it is asked once a statement and not once a row.
CREATE FUNCTION voxgate_tenant() RETURNS uuid STABLE LANGUAGE sql AS
    $$ SELECT CASE WHEN current_setting('voxgate.tenant', true) <> 'everyone'
                   THEN nullif(current_setting('voxgate.tenant', true), '')::uuid END $$;
CREATE FUNCTION voxgate_everyone() RETURNS boolean STABLE LANGUAGE sql AS
    $$ SELECT coalesce(current_setting('voxgate.tenant', true) = 'everyone', false) $$;

DO $$
DECLARE fenced record;
BEGIN
    FOR fenced IN VALUES
        ('tenants', 'id'), ('api_keys', 'tenant_id'), ('voice_agents', 'tenant_id'),
        ('voice_agent_revisions', 'tenant_id'), ('voice_agent_create_requests', 'tenant_id'),
        ('sessions', 'tenant_id'), ('operations', 'tenant_id')
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', fenced.column1);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', fenced.column1);
        EXECUTE format('CREATE POLICY tenant_fence ON %I USING (%I = (SELECT voxgate_tenant()) '
            'OR (SELECT voxgate_everyone()))', fenced.column1, fenced.column2);
    END LOOP;
END $$;

-- What replicas keep in memory is told to them when it changes, with the commit that changes it.
CREATE FUNCTION voxgate_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE TG_TABLE_NAME
        WHEN 'voice_agents' THEN PERFORM pg_notify('voxgate', 'voice_agent ' || OLD.tenant_id || ' ' || OLD.id);
        WHEN 'tenants' THEN PERFORM pg_notify('voxgate', 'tenant ' || OLD.id);
        WHEN 'api_keys' THEN
            PERFORM pg_notify('voxgate', 'api_key ' || encode(OLD.hash, 'hex'));
            IF OLD.previous_hash IS NOT NULL THEN
                PERFORM pg_notify('voxgate', 'api_key ' || encode(OLD.previous_hash, 'hex'));
            END IF;
    END CASE;
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER UPDATE OR DELETE ON voice_agents FOR EACH ROW EXECUTE FUNCTION voxgate_tell();
CREATE TRIGGER tell AFTER UPDATE OR DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION voxgate_tell();
CREATE TRIGGER tell AFTER UPDATE ON api_keys FOR EACH ROW
    -- Not for when it was last used, which is written all the time and decides nothing.
    WHEN ((OLD.hash, OLD.previous_hash, OLD.previous_expires_at, OLD.scopes, OLD.rate_limit_per_min, OLD.expires_at,
        OLD.revoked_at) IS DISTINCT FROM (NEW.hash, NEW.previous_hash, NEW.previous_expires_at, NEW.scopes,
        NEW.rate_limit_per_min, NEW.expires_at, NEW.revoked_at))
    EXECUTE FUNCTION voxgate_tell();
CREATE TRIGGER tell_of_removal AFTER DELETE ON api_keys FOR EACH ROW EXECUTE FUNCTION voxgate_tell();
-- For operators, who know a key by its id alone.
CREATE UNIQUE INDEX api_keys_by_id ON api_keys (id);
