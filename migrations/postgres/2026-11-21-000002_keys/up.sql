ALTER TABLE api_keys ADD COLUMN previous_hash bytea; ALTER TABLE api_keys ADD COLUMN previous_expires_at timestamptz;
