-- How many leases of an agent are live, how many calls wait, and the newest limits that apply.
--
-- KEYS: 1 to 10, see queue.lua
--
-- ARGV: none
--
-- Result: {used, used_outbound, limit, reserved, queued, waited_ms}; limits are 0 where none is known, waited_ms is
-- -1 where nobody waits.
keys_are(10)
if #ARGV ~= 0 then error('bad number of arguments') end

local known = redis.call('HMGET', KEYS[6], 'limit', 'reserved')
local used_outbound = live_in(KEYS[5])
return {live_in(KEYS[4]) + used_outbound, used_outbound, tonumber(known[1] or 0), tonumber(known[2] or 0),
    queue_figures()}
