DROP INDEX tenants_newest_first;
DROP INDEX api_keys_by_previous_hash;
-- In this order: the check of the one names the other.
ALTER TABLE api_keys DROP COLUMN previous_expires_at;
ALTER TABLE api_keys DROP COLUMN previous_hash;
