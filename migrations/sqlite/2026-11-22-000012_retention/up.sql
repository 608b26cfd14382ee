-- What is old is found by its age, over all tenants.
CREATE INDEX events_by_age ON events (created_at);
CREATE INDEX audit_entries_by_age ON audit_entries (created_at);
CREATE INDEX voice_agent_create_requests_by_age ON voice_agent_create_requests (created_at);
CREATE INDEX revoked_tokens_by_age ON revoked_tokens (until);
