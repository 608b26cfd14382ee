-- Forgets a letter that has come to its end, and tells a replica what came of it.
--
-- KEYS:
--  1 nodes, 2 mail  (see lib.lua)
--
-- ARGV:
--  1 [bytes]  the letter's number; empty: none
--  2 [bytes]  the replica that is told; empty: none
--  3 [bytes]  what it is told
--
-- Result: 1 if the letter was there, 0 otherwise
keys_are(2)

-- From here on it writes.
local forgotten = 0
if ARGV[1] ~= '' then forgotten = redis.call('HDEL', KEYS[2], ARGV[1]) end
if ARGV[2] ~= '' then redis.call('PUBLISH', 'vg:replica:' .. ARGV[2], 'F' .. ARGV[3]) end
return forgotten
