-- Lists ask for one status at a time, newest first; a list of all of them is three such lists.
CREATE INDEX sessions_by_status ON sessions (tenant_id, status, started_at DESC, id DESC);
CREATE INDEX sessions_of_agent ON sessions (tenant_id, voice_agent_id, status, started_at DESC, id DESC);
-- The one above serves whoever used this one.
DROP INDEX sessions_active_of_agent;
