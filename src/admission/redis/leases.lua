-- The live lease of each call that has one.
--
-- KEYS:
--  1 calls  2 leases  (see lib.lua)
--
-- ARGV: [string] call ids, 1 to 1,000
--
-- Result: two elements a call, in order: record and expiry_ms; or '' and 0 where no lease is live.
keys_are(2)
if #ARGV == 0 or #ARGV > 1000 then error('bad number of calls') end

local records = redis.call('HMGET', KEYS[1], unpack(ARGV))
local scores = redis.call('ZMSCORE', KEYS[2], unpack(ARGV))
local answer = {}
for i = 1, #ARGV do
    local expiry = tonumber(scores[i] or 0)
    local live = records[i] and expiry > now
    answer[2 * i - 1] = live and bare(records[i]) or ''
    answer[2 * i] = live and expiry or 0
end
return answer
