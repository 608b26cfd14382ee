ALTER TABLE sessions DROP COLUMN lease_ttl_ms;
