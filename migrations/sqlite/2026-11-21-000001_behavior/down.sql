ALTER TABLE voice_agents DROP COLUMN behavior;
