DROP TABLE audit_entries;
DROP FUNCTION voxgate_append_only();
