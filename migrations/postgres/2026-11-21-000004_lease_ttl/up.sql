-- The longest life that a session's lease was last known to be given at once. The default is AcquireSlot's own: what a
-- release that does not know the column writes.
ALTER TABLE sessions ADD COLUMN lease_ttl_ms bigint NOT NULL DEFAULT 60000 CHECK (lease_ttl_ms >= 0);
