-- What a session has of its own that no softswitch asked for; absent: one did.
ALTER TABLE sessions ADD COLUMN direct TEXT;
