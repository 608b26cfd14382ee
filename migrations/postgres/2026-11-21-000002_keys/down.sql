DROP INDEX tenants_newest_first;
DROP INDEX api_keys_by_previous_hash;
ALTER TABLE api_keys
    DROP CONSTRAINT api_keys_previous,
    DROP COLUMN previous_expires_at,
    DROP COLUMN previous_hash;
