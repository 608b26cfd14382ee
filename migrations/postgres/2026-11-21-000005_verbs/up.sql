-- What verbs write down of a session. The default is what a release that does not know the column means.
ALTER TABLE sessions ADD COLUMN record jsonb NOT NULL DEFAULT '{}';

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

DO $$
DECLARE fenced text;
BEGIN
    FOREACH fenced IN ARRAY ARRAY['session_log', 'events'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', fenced);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', fenced);
        EXECUTE format('CREATE POLICY tenant_fence ON %I USING (tenant_id = (SELECT voxgate_tenant()) '
            'OR (SELECT voxgate_everyone()))', fenced);
    END LOOP;
END $$;
