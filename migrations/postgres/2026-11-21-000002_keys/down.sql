ALTER TABLE api_keys DROP COLUMN previous_hash; ALTER TABLE api_keys DROP COLUMN previous_expires_at;
