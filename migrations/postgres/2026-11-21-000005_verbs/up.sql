-- What verbs write down of a session. The default is what a release that does not know the column means.
ALTER TABLE sessions ADD COLUMN record jsonb NOT NULL DEFAULT '{}';

-- When the session ends however well it goes.
ALTER TABLE sessions ADD COLUMN ends_at timestamptz;
CREATE INDEX sessions_over ON sessions (ends_at) WHERE status = 'ACTIVE' AND ends_at IS NOT NULL;

-- Operations of which it is not known what became of them.
CREATE INDEX operations_open ON operations (accepted_at) WHERE state NOT IN ('SUCCEEDED', 'FAILED');

CREATE TABLE session_log (
    tenant_id uuid NOT NULL,
    session_id uuid NOT NULL,
    entry bigint NOT NULL CHECK (entry > 0),
    logged_at timestamptz NOT NULL,
    metadata jsonb NOT NULL,
    PRIMARY KEY (tenant_id, session_id, entry)
);

-- Written with the change that they tell of. Within a session 1, 2, 3 … without gaps.
CREATE TABLE events (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    kind text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    session_id uuid NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    session_sequence bigint NOT NULL CHECK (session_sequence > 0),
    data jsonb NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, session_id, session_sequence)
);

-- Callback tokens that are good for nothing any more, until they would have expired.
CREATE TABLE revoked_tokens (
    tenant_id uuid NOT NULL,
    jti uuid NOT NULL,
    -- Revoked by a sandbox key: of a sandbox call, or of none.
    sandbox boolean NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, jti)
);
CREATE INDEX revoked_tokens_new ON revoked_tokens (revoked_at);

DO $$
DECLARE fenced text;
BEGIN
    FOREACH fenced IN ARRAY ARRAY['session_log', 'events', 'revoked_tokens'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', fenced);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', fenced);
        EXECUTE format('CREATE POLICY tenant_fence ON %I USING (tenant_id = (SELECT voxgate_tenant()) '
            'OR (SELECT voxgate_everyone()))', fenced);
    END LOOP;
END $$;
