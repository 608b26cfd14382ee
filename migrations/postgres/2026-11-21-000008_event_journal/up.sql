-- Events of the session that are written: the next one's number is one more. Verbs counted them in the record before.
ALTER TABLE sessions ADD COLUMN events bigint NOT NULL DEFAULT 0 CHECK (events >= 0);
UPDATE sessions SET events = (record ->> 'events')::bigint WHERE record ? 'events';

-- Position in the tenant's events. Given after the commit: until then it is absent, and nobody is told of the event.
ALTER TABLE events ADD COLUMN sequence bigint CHECK (sequence > 0);
CREATE UNIQUE INDEX events_in_sequence ON events (tenant_id, sequence) WHERE sequence IS NOT NULL;
CREATE INDEX events_unsequenced ON events (tenant_id, session_id, session_sequence) WHERE sequence IS NULL;

-- The last position that was given.
CREATE TABLE event_sequences (
    tenant_id uuid PRIMARY KEY,
    last bigint NOT NULL CHECK (last >= 0)
);
ALTER TABLE event_sequences ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_sequences FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON event_sequences USING (tenant_id = (SELECT voxgate_tenant())
    OR (SELECT voxgate_everyone()));
