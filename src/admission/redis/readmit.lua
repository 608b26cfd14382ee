-- Takes leases in again that the store has lost, each as its holder has proved it, even above the limit.
--
-- KEYS:
--  1 calls  2 leases  3 tenant_limits, and 3 for each agent among the leases:
--  4 inbound  5 outbound  6 agent_limits, …  (see lib.lua)
--
-- ARGV:
--  1 [string]  server, then 2 a lease:
--  2 [string]  call id
--  3 [bytes]   the record (57) that the lease had, then as text `lease_ttl_ms:agent`, the agent being its place in
--              KEYS, from 1
--
-- Result: one element a lease, in order, by its type and tag:
--  * {'readmitted', expiry_ms}
--  * [number]    it was there: expiry_ms
--  * 'lost'      it has expired, another lease holds the call, or nothing was lost lately
--  * 'released'
-- or {'unopened'} alone.
local agents = #KEYS / 3 - 1
if agents < 1 or agents ~= math.floor(agents) then error('bad number of keys') end
local count = (#ARGV - 1) / 2
if count < 1 or count ~= math.floor(count) or count > 1000 then error('bad number of arguments') end

local books = books_of(KEYS[3], ARGV[1])
if not books then return {'unopened'} end

local asked = {}
for i = 1, count do
    local named = ARGV[2 * i + 1]
    local ttl, agent = string.match(string.sub(named, 58), '^(%d+):(%d+)$')
    asked[i] = {
        call = ARGV[2 * i],
        record = sized(string.sub(named, 1, 57), 57, 'record'),
        expiry = now + integer(ttl, TTL_MIN_MS, TTL_MAX_MS, 'lease_ttl_ms'),
        base = 3 * integer(agent, 1, agents, 'agent'),
    }
end

-- From here on it writes: each lease is looked at as those before it have left the store.
local answer = {}
for i, it in ipairs(asked) do
    local record = redis.call('HGET', KEYS[1], it.call)
    local score = record and tonumber(redis.call('ZSCORE', KEYS[2], it.call) or 0) or 0
    if record and lease_of(record) == lease_of(it.record) and math.abs(score) > now then
        if score < 0 then
            answer[i] = 'released'
        else
            answer[i] = math.max(score, it.expiry)
            it.record = record
        end
    elseif record or not books.misses then
        answer[i] = 'lost'
    else
        redis.call('HSET', KEYS[1], it.call, it.record)
        answer[i] = {'readmitted', it.expiry}
    end
    local expiry = type(answer[i]) == 'table' and answer[i][2] or answer[i]
    if type(expiry) == 'number' then
        redis.call('ZADD', KEYS[2], expiry, it.call)
        redis.call('ZADD', KEYS[it.base + (is_outbound(it.record) and 2 or 1)], expiry, fence_of(it.record))
        -- The agent's fence never falls behind one of its holders'.
        local fence = struct.unpack('>I8', fence_of(it.record))
        if fence > tonumber(redis.call('HGET', KEYS[it.base + 3], 'fence') or 0) then
            redis.call('HSET', KEYS[it.base + 3], 'fence', fence)
        end
    end
end
note_books(KEYS[3], books)
for _, key in ipairs(KEYS) do
    keep(key)
end
return answer
