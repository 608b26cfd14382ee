-- Who tried what on which call, and what came of it. Written once and never changed; rows go after 30 days at the earliest.
CREATE TABLE audit_entries (
    tenant_id BLOB NOT NULL,
    id BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    -- Empty where none is concerned.
    call_id TEXT NOT NULL,
    session_id BLOB,
    -- Empty when it was done.
    error_reason TEXT NOT NULL,
    details TEXT NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX audit_entries_newest_first ON audit_entries (tenant_id, created_at DESC, id DESC);
CREATE INDEX audit_entries_of_call ON audit_entries (tenant_id, call_id, created_at DESC, id DESC);
CREATE INDEX audit_entries_of_session ON audit_entries (tenant_id, session_id, created_at DESC, id DESC)
    WHERE session_id IS NOT NULL;

CREATE TRIGGER audit_entries_are_not_changed BEFORE UPDATE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'audit entries are append only: UPDATE is refused');
END;
CREATE TRIGGER audit_entries_are_kept BEFORE DELETE ON audit_entries
WHEN OLD.created_at >= (CAST(strftime('%s', 'now') AS INTEGER) - 30 * 86400) * 1000000
BEGIN
    SELECT RAISE(ABORT, 'audit entries are append only: DELETE is refused');
END;
