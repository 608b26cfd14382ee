DROP TABLE revoked_tokens;
DROP TABLE events;
DROP TABLE session_log;
DROP INDEX operations_open;
DROP INDEX sessions_over;
ALTER TABLE sessions DROP COLUMN ends_at;
ALTER TABLE sessions DROP COLUMN record;
