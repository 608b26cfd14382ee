-- Tells every replica that a tenant has events that can be read.
--
-- KEYS:
--  1 [nothing]  never written: its hash tag is the tenant
--
-- ARGV:
--  1 [string]  the replica that tells
--
-- Result: how many heard it on this server

if #KEYS ~= 1 or #ARGV ~= 1 then
    error('bad number of arguments')
end
return redis.call('PUBLISH', 'vg:events', ARGV[1] .. '|' .. string.match(KEYS[1], '{(.*)}'))
