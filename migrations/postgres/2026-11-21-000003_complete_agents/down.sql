DROP INDEX api_keys_by_id;
DROP TRIGGER tell_of_removal ON api_keys;
DROP TRIGGER tell ON api_keys;
DROP TRIGGER tell ON tenants;
DROP TRIGGER tell ON voice_agents;
DROP FUNCTION voxgate_tell();
DO $$
DECLARE fenced text;
BEGIN
    FOREACH fenced IN ARRAY ARRAY['tenants', 'api_keys', 'voice_agents', 'voice_agent_create_requests', 'sessions', 'operations']
    LOOP
        EXECUTE format('DROP POLICY tenant_fence ON %I', fenced);
        EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', fenced);
        EXECUTE format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', fenced);
    END LOOP;
END $$;
DROP TABLE voice_agent_revisions;
DROP FUNCTION voxgate_everyone();
DROP FUNCTION voxgate_tenant();
DROP INDEX voice_agents_by_name;
DELETE FROM token_keys;
ALTER TABLE token_keys DROP COLUMN sealed_secret;
ALTER TABLE token_keys ADD COLUMN secret bytea NOT NULL;
ALTER TABLE voice_agents DROP COLUMN updated_by;
ALTER TABLE voice_agents DROP COLUMN sealed_auth_token;
ALTER TABLE voice_agents ADD COLUMN auth_token text;
