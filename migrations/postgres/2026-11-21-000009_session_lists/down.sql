CREATE INDEX sessions_active_of_agent ON sessions (tenant_id, voice_agent_id, started_at, id) WHERE status = 'ACTIVE';
DROP INDEX sessions_of_agent;
DROP INDEX sessions_by_status;
