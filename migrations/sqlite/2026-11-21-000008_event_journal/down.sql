DROP TABLE event_sequences;
DROP INDEX events_unsequenced;
DROP INDEX events_in_sequence;
ALTER TABLE events DROP COLUMN sequence;
UPDATE sessions SET record = json_set(record, '$.events', events) WHERE events > 0;
ALTER TABLE sessions DROP COLUMN events;
