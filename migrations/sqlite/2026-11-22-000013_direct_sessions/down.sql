ALTER TABLE sessions DROP COLUMN direct;
