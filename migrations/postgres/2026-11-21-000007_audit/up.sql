-- Who tried what on which call, and what came of it. Written once and never changed; rows go after 30 days at the earliest.
CREATE TABLE audit_entries (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    actor text NOT NULL,
    action text COLLATE "C" NOT NULL,
    target text NOT NULL,
    -- Empty where none is concerned.
    call_id text COLLATE "C" NOT NULL,
    session_id uuid,
    -- Empty when it was done.
    error_reason text COLLATE "C" NOT NULL,
    details jsonb NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX audit_entries_newest_first ON audit_entries (tenant_id, created_at DESC, id DESC);
CREATE INDEX audit_entries_of_call ON audit_entries (tenant_id, call_id, created_at DESC, id DESC);
CREATE INDEX audit_entries_of_session ON audit_entries (tenant_id, session_id, created_at DESC, id DESC)
    WHERE session_id IS NOT NULL;

CREATE FUNCTION voxgate_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.created_at < now() - interval '30 days' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit entries are append only: % is refused', TG_OP;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION voxgate_append_only();
-- No row's trigger hears of this one.
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION voxgate_append_only();

ALTER TABLE audit_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_entries FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON audit_entries USING (tenant_id = (SELECT voxgate_tenant())
    OR (SELECT voxgate_everyone()));
