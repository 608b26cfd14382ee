DROP TABLE operations;
DROP TABLE sessions;
DROP TABLE voice_agent_create_requests;
DROP TABLE voice_agents;
DROP TABLE token_keys;
DROP TABLE api_keys;
DROP TABLE tenants;
