-- Events of the session that are written: the next one's number is one more. Verbs counted them in the record before.
ALTER TABLE sessions ADD COLUMN events INTEGER NOT NULL DEFAULT 0 CHECK (events >= 0);
UPDATE sessions SET events = record ->> 'events' WHERE record ->> 'events' IS NOT NULL;

-- Position in the tenant's events. Given after the commit: until then it is absent, and nobody is told of the event.
ALTER TABLE events ADD COLUMN sequence INTEGER CHECK (sequence > 0);
CREATE UNIQUE INDEX events_in_sequence ON events (tenant_id, sequence) WHERE sequence IS NOT NULL;
CREATE INDEX events_unsequenced ON events (tenant_id, session_id, session_sequence) WHERE sequence IS NULL;

-- The last position that was given.
CREATE TABLE event_sequences (
    tenant_id BLOB PRIMARY KEY NOT NULL,
    last INTEGER NOT NULL CHECK (last >= 0)
) STRICT;
