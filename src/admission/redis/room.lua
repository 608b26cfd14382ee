-- Put in front of each script that takes a slot or a place for a call that has none: a Redis that has reached its
-- maxmemory refuses it.
--
-- Redis looks at its memory only before a script's first write, and the one in lib.lua frees memory for all it knows.
-- So the first is one that takes memory for all it knows: it changes the score of nobody. Without this in front, what
-- renews, frees or brings back goes on.
--
-- KEYS:
--  2 leases  (see lib.lua)
--
-- ARGV (none here)
--
-- Result: none
redis.call('ZADD', KEYS[2], 'XX', 0, '')

