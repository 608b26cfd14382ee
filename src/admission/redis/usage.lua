-- How many leases are live in each of some sets, and the newest limits that apply to them.
--
-- KEYS:
--  1 [hash]  agent_limits or tenant_limits
--  2 [zset]  inbound, outbound or leases; one or more  (see lib.lua)
--
-- ARGV: none
--
-- Result: {limit, reserved, live in KEYS[2], live in KEYS[3], …}; limits are 0 where none is known.
if #KEYS < 2 then error('bad number of keys') end
if #ARGV ~= 0 then error('bad number of arguments') end

local known = redis.call('HMGET', KEYS[1], 'limit', 'reserved')
local answer = {tonumber(known[1] or 0), tonumber(known[2] or 0)}
for i = 2, #KEYS do
    answer[i + 1] = live_in(KEYS[i])
end
return answer
