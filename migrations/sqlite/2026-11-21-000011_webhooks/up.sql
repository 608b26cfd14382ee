-- Where tenants want their events posted.
CREATE TABLE webhook_endpoints (
    tenant_id BLOB NOT NULL REFERENCES tenants (id),
    id BLOB NOT NULL,
    url TEXT NOT NULL,
    event_types TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    description TEXT,
    sandbox INTEGER NOT NULL,
    sealed_secret BLOB NOT NULL,
    sealed_previous_secret BLOB,
    previous_secret_expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- The last of the tenant's events that was looked at for it.
    position INTEGER NOT NULL DEFAULT 0 CHECK (position >= 0),
    -- When there may be something to post; absent: nothing waits, or it is disabled.
    due_at INTEGER,
    -- Posts that failed since one succeeded.
    failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
    PRIMARY KEY (tenant_id, id),
    CHECK ((sealed_previous_secret IS NULL) = (previous_secret_expires_at IS NULL))
) STRICT;
CREATE UNIQUE INDEX webhook_endpoints_by_id ON webhook_endpoints (id);
CREATE INDEX webhook_endpoints_newest_first ON webhook_endpoints (tenant_id, created_at DESC, id DESC);
CREATE INDEX webhook_endpoints_due ON webhook_endpoints (due_at) WHERE due_at IS NOT NULL;

-- An event on its way to an endpoint, at most one row each; or, once it is dead, given up. One that was taken has none.
CREATE TABLE webhook_deliveries (
    tenant_id BLOB NOT NULL,
    endpoint_id BLOB NOT NULL,
    event_id BLOB NOT NULL,
    id BLOB NOT NULL,
    -- The event as it is posted: it may outlive the event's own row.
    event TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    first_attempt_at INTEGER,
    last_attempt_at INTEGER,
    -- 0 where no answer came.
    last_status INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    -- With a claim: when the claim ends, and it is tried again.
    next_attempt_at INTEGER NOT NULL,
    -- Whose try is under way.
    claim BLOB,
    dead_at INTEGER,
    PRIMARY KEY (tenant_id, endpoint_id, event_id),
    FOREIGN KEY (tenant_id, endpoint_id) REFERENCES webhook_endpoints (tenant_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant_id, endpoint_id, next_attempt_at)
    WHERE dead_at IS NULL;
CREATE INDEX webhook_deliveries_claimed ON webhook_deliveries (tenant_id, endpoint_id, next_attempt_at)
    WHERE claim IS NOT NULL;
CREATE INDEX webhook_deliveries_oldest ON webhook_deliveries (made_at) WHERE dead_at IS NULL;
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (tenant_id, dead_at DESC, id DESC) WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_deliveries_dead_of_endpoint ON webhook_deliveries (tenant_id, endpoint_id, dead_at DESC, id DESC)
    WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_deliveries_dead_longest ON webhook_deliveries (dead_at) WHERE dead_at IS NOT NULL;
