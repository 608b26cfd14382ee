-- The secret before the last rotation, and until when it works.
ALTER TABLE api_keys ADD COLUMN previous_hash BLOB CHECK (length(previous_hash) = 32);
ALTER TABLE api_keys ADD COLUMN previous_expires_at INTEGER
    CHECK ((previous_hash IS NULL) = (previous_expires_at IS NULL));
CREATE UNIQUE INDEX api_keys_by_previous_hash ON api_keys (previous_hash) WHERE previous_hash IS NOT NULL;

CREATE INDEX tenants_newest_first ON tenants (created_at DESC, id DESC);
