-- What was posted of a session. Apart from it, since few read it and it may be long; `record` says whether there is any.
-- It goes with the session; who posts while that is removed waits, and finds neither.
CREATE TABLE session_results (
    tenant_id uuid NOT NULL,
    session_id uuid NOT NULL,
    transcript jsonb NOT NULL,
    -- As posted; absent: none were.
    results jsonb,
    warnings jsonb NOT NULL,
    PRIMARY KEY (tenant_id, session_id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES sessions (tenant_id, id) ON DELETE CASCADE
);
ALTER TABLE session_results ENABLE ROW LEVEL SECURITY;
ALTER TABLE session_results FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON session_results USING (tenant_id = (SELECT voxgate_tenant())
    OR (SELECT voxgate_everyone()));
