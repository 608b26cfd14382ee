-- Forgets what the database has. An entry never changes, so there is none that was not the one which was written.
--
-- KEYS:
--  1 unwritten  (see lib.lua)
--
-- ARGV: [bytes] fields, 1 to 2,000
--
-- Result: how many of them were there.
keys_are(1)
if #ARGV == 0 or #ARGV > 2000 then error('bad number of fields') end

-- From here on it writes.
return redis.call('HDEL', KEYS[1], unpack(ARGV))
