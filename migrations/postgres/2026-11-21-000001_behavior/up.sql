ALTER TABLE voice_agents ADD COLUMN behavior jsonb;
