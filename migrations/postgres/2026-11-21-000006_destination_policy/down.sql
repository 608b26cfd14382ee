ALTER TABLE tenants DROP COLUMN destination_policy;
