-- Some of a tenant's live leases, in the order in which they run out.
--
-- KEYS:
--  1 calls  2 leases  (see lib.lua)
--
-- ARGV:
--  1 [number]  how many to pass over   2 [number] how many to answer, 1 to 1,000
--
-- Result: three elements a lease: call id, record and expiry_ms.
keys_are(2)
local offset = integer(ARGV[1], 0, EXACT_MAX, 'offset')
local count = integer(ARGV[2], 1, 1000, 'count')

local entries = redis.call('ZRANGEBYSCORE', KEYS[2], AFTER_NOW, '+inf', 'WITHSCORES', 'LIMIT', offset, count)
local answer = {}
for i = 1, #entries, 2 do
    local record = redis.call('HGET', KEYS[1], entries[i])
    if record then
        answer[#answer + 1] = entries[i]
        answer[#answer + 1] = bare(record)
        answer[#answer + 1] = tonumber(entries[i + 1])
    end
end
return answer
