-- What a renewal of each lease would be answered; changes nothing.
--
-- KEYS:
--  1 calls  2 leases  3 tenant_limits  (see lib.lua)
--
-- ARGV:
--  1 [string]  server, then 2 a lease, of 1 to 1,000:
--  2 [string]  call id
--  3 [bytes]   lease (32)
--
-- Result: one element a lease, in order, as renew.lua's; or {'unopened'} alone.
keys_are(3)
local count = (#ARGV - 1) / 2
if count < 1 or count ~= math.floor(count) or count > 1000 then error('bad number of arguments') end

local books = books_of(KEYS[3], ARGV[1])
if not books then return {'unopened'} end

local calls, leases = {}, {}
for i = 1, count do
    calls[i], leases[i] = ARGV[2 * i], sized(ARGV[2 * i + 1], 32, 'lease')
end
local records = redis.call('HMGET', KEYS[1], unpack(calls))
local scores = redis.call('ZMSCORE', KEYS[2], unpack(calls))

local answer = {}
for i = 1, count do
    local record, score = records[i], tonumber(scores[i] or 0)
    if not record then
        answer[i] = books.misses and 'missing' or 'lost'
    elseif lease_of(record) ~= leases[i] or math.abs(score) <= now then
        answer[i] = 'lost'
    else
        answer[i] = score < 0 and 'released' or score
    end
end
return answer
