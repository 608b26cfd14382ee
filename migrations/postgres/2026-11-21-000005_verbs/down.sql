DROP TABLE events;
DROP TABLE session_log;
ALTER TABLE sessions DROP COLUMN record;
