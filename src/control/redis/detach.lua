-- Nobody speaks for the node any more, if it was this stream that did.
--
-- KEYS:
--  1 nodes  (see lib.lua)
--
-- ARGV:
--  1 [bytes]  the node's field
--  2 [bytes]  replica
--  3 [bytes]  stream
--
-- Result: 1 if it was, 0 otherwise
keys_are(1)
local node = speaker(ARGV[1])
if not node or node.replica ~= ARGV[2] or node.stream ~= ARGV[3] then return 0 end

-- From here on it writes.
redis.call('HDEL', KEYS[1], ARGV[1])
tell_all()
return 1
