DROP TABLE event_sequences;
DROP INDEX events_unsequenced;
DROP INDEX events_in_sequence;
ALTER TABLE events DROP COLUMN sequence;
UPDATE sessions SET record = jsonb_set(record, '{events}', to_jsonb(events)) WHERE events > 0;
ALTER TABLE sessions DROP COLUMN events;
