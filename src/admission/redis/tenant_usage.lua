-- How many leases of a tenant are live, how many calls wait, and the newest cap.
--
-- KEYS:
--  1 calls  2 leases  3 tenant_limits  (see lib.lua)  4 replicas  5 agents  (see queue.lua)
--
-- ARGV: none
--
-- Result: {used, used_outbound (0: not counted), limit, reserved (0), queued, waited_ms}, as usage.lua.
keys_are(5)
if #ARGV ~= 0 then error('bad number of arguments') end

local queued, waited = 0, -1
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], AFTER_NOW, '+inf')) do
    queued = queued + redis.call('HLEN', tickets_of(replica))
end
local first = queued > 0 and redis.call('ZRANGE', KEYS[5], 0, 0)[1]
if first then
    local _, since = queued_in(keys_of(first))
    waited = since
end
return {live_in(KEYS[2]), 0, tonumber(redis.call('HGET', KEYS[3], 'limit') or 0), 0, queued, waited}
