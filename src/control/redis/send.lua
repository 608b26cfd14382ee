-- Hands a letter to a connected node: keeps it until it is settled, and tells the node's replica.
--
-- KEYS:
--  1 nodes, 2 mail  (see lib.lua)
--
-- ARGV:
--  1 [bytes]  the node's field
--  2 [bytes]  letter
--  3 [int]    for how long the mail is kept after this, in milliseconds
--  4 [int]    letters of a node that may be unsettled
--
-- Result: the letter's number; nobody, if no stream speaks for the node; full
keys_are(2)
local keep_ms, most = integer(3), integer(4)
local node = speaker(ARGV[1])
if not node then return 'nobody' end
if redis.call('HLEN', KEYS[2]) > most then return 'full' end

-- From here on it writes.
redis.call('HSETNX', KEYS[2], 'next', string.format('%.0f', now_us))
local number = string.format('%.0f', redis.call('HINCRBY', KEYS[2], 'next', 1))
redis.call('HSET', KEYS[2], number, string.format('%.0f|1|%s', now_ms, ARGV[2]))
redis.call('PEXPIRE', KEYS[2], keep_ms)
redis.call('PUBLISH', 'vg:replica:' .. node.replica, 'L' .. node.stream .. '|' .. number .. '|' .. ARGV[2])
return number
