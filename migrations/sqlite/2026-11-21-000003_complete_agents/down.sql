DROP INDEX api_keys_by_id;
DROP INDEX voice_agents_by_name;
DROP TABLE voice_agent_revisions;
DROP TABLE token_keys;
CREATE TABLE token_keys (
    generation INTEGER PRIMARY KEY,
    kid TEXT NOT NULL UNIQUE,
    secret BLOB NOT NULL
) STRICT;
ALTER TABLE voice_agents DROP COLUMN updated_by;
ALTER TABLE voice_agents DROP COLUMN sealed_auth_token;
ALTER TABLE voice_agents ADD COLUMN auth_token TEXT;
