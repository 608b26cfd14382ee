-- Where tenants want their events posted.
CREATE TABLE webhook_endpoints (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    id uuid NOT NULL,
    url text NOT NULL,
    event_types jsonb NOT NULL,
    enabled boolean NOT NULL,
    description text,
    sandbox boolean NOT NULL,
    sealed_secret bytea NOT NULL,
    sealed_previous_secret bytea,
    previous_secret_expires_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- The last of the tenant's events that was looked at for it.
    position bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    -- When there may be something to post; absent: nothing waits, or it is disabled.
    due_at timestamptz,
    -- Posts that failed since one succeeded.
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    PRIMARY KEY (tenant_id, id),
    CHECK ((sealed_previous_secret IS NULL) = (previous_secret_expires_at IS NULL))
);
CREATE UNIQUE INDEX webhook_endpoints_by_id ON webhook_endpoints (id);
CREATE INDEX webhook_endpoints_newest_first ON webhook_endpoints (tenant_id, created_at DESC, id DESC);
CREATE INDEX webhook_endpoints_due ON webhook_endpoints (due_at) WHERE due_at IS NOT NULL;

-- An event on its way to an endpoint, at most one row each; or, once it is dead, given up. One that was taken has none.
CREATE TABLE webhook_deliveries (
    tenant_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    event_id uuid NOT NULL,
    id uuid NOT NULL,
    -- The event as it is posted: it may outlive the event's own row.
    event jsonb NOT NULL,
    made_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    first_attempt_at timestamptz,
    last_attempt_at timestamptz,
    -- 0 where no answer came.
    last_status integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    -- With a claim: when the claim ends, and it is tried again.
    next_attempt_at timestamptz NOT NULL,
    -- Whose try is under way.
    claim uuid,
    dead_at timestamptz,
    PRIMARY KEY (tenant_id, endpoint_id, event_id),
    FOREIGN KEY (tenant_id, endpoint_id) REFERENCES webhook_endpoints (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant_id, endpoint_id, next_attempt_at)
    WHERE dead_at IS NULL;
CREATE INDEX webhook_deliveries_claimed ON webhook_deliveries (tenant_id, endpoint_id, next_attempt_at)
    WHERE claim IS NOT NULL;
CREATE INDEX webhook_deliveries_oldest ON webhook_deliveries (made_at) WHERE dead_at IS NULL;
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (tenant_id, dead_at DESC, id DESC) WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_deliveries_dead_of_endpoint ON webhook_deliveries (tenant_id, endpoint_id, dead_at DESC, id DESC)
    WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_deliveries_dead_longest ON webhook_deliveries (dead_at) WHERE dead_at IS NOT NULL;

DO $$
DECLARE fenced text;
BEGIN
    FOREACH fenced IN ARRAY ARRAY['webhook_endpoints', 'webhook_deliveries'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', fenced);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', fenced);
        EXECUTE format('CREATE POLICY tenant_fence ON %I USING (tenant_id = (SELECT voxgate_tenant()) '
            'OR (SELECT voxgate_everyone()))', fenced);
    END LOOP;
END $$;
