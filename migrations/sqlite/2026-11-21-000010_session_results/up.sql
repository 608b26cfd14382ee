-- What was posted of a session. Apart from it, since few read it and it may be long; `record` says whether there is any.
-- It goes with the session; who posts while that is removed waits, and finds neither.
CREATE TABLE session_results (
    tenant_id BLOB NOT NULL,
    session_id BLOB NOT NULL,
    transcript TEXT NOT NULL,
    -- As posted; absent: none were.
    results TEXT,
    warnings TEXT NOT NULL,
    PRIMARY KEY (tenant_id, session_id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES sessions (tenant_id, id) ON DELETE CASCADE
) STRICT;
