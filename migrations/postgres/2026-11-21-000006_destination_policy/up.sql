-- Where a tenant's calls may be sent (domain/destination). Absent: anywhere, as before.
ALTER TABLE tenants ADD COLUMN destination_policy jsonb;
