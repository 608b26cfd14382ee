DROP INDEX revoked_tokens_by_age;
DROP INDEX voice_agent_create_requests_by_age;
DROP INDEX audit_entries_by_age;
DROP INDEX events_by_age;
