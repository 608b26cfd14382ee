-- Takes a slot for a call, or says why there is none; or only says what it would answer.
--
-- KEYS:
--  1 to 10, see queue.lua  11 unwritten  (see lib.lua)
--
-- ARGV:
--  1 [string]  `take`, or `probe`: the same answer, nothing written, and fence 0 in a grant
--  2 [string]  call id
--  3 [bytes]   lease (32) that a grant is to have; its first half is the agent
--  4 [bytes]   session (16) that a grant is to have
--  5 [string]  direction, `I` or `O`
--  6 [number]  lease_ttl_ms
--  7 [number]  agent_limit     8 [number] reserved_inbound   9 [number] agent_version
-- 10 [number]  tenant_limit (0: none)                       11 [number] tenant_version
-- 12 [number]  priority
-- 13 [string]  server
-- 14 [bytes]   what is kept of the session with a grant or a claim, empty: nothing
--
-- Result, by its tag:
--  * {'granted' | 'existing', record, expiry_ms, used, used_outbound, limit, reserved, queued, waited_ms}
--  * {'other_agent', agent (16 bytes)}
--  * {'unopened'}
--  * {'recovering', left_ms}: data was lost, and the call's lease is not back
--  * {'denied', 'agent' | 'inbound_reserve' | 'tenant', next_expiry_in_ms, tenant_used, tenant_limit,
--     used, used_outbound, limit, reserved, queued, waited_ms}
--
-- The limits that count are those of the highest version seen, here or in the request. What is free goes to those
-- who wait and whose turn is before the request's, and only what they leave to the request. An offer is claimed by it,
-- and its session begins then.
keys_are(11, KEYS)
if ARGV[1] ~= 'take' and ARGV[1] ~= 'probe' then error('bad mode') end
if ARGV[5] ~= 'I' and ARGV[5] ~= 'O' then error('bad direction') end
local take = ARGV[1] == 'take'
local call = ARGV[2]
local lease = sized(ARGV[3], 32, 'lease')
local session = sized(ARGV[4], 16, 'session')
local outbound = ARGV[5] == 'O'
local expiry = now + integer(ARGV[6], TTL_MIN_MS, TTL_MAX_MS, 'lease_ttl_ms')
local limit = integer(ARGV[7], 0, EXACT_MAX, 'agent_limit')
local reserved = integer(ARGV[8], 0, EXACT_MAX, 'reserved_inbound')
local agent_version = integer(ARGV[9], 0, EXACT_MAX, 'agent_version')
local tenant_limit = integer(ARGV[10], 0, EXACT_MAX, 'tenant_limit')
local tenant_version = integer(ARGV[11], 0, EXACT_MAX, 'tenant_version')
local priority = integer(ARGV[12], 0, 255, 'priority')

local books = books_of(KEYS[3], ARGV[13])
if not books then return {'unopened'} end

local record = redis.call('HGET', KEYS[1], call)
local held_until = record and tonumber(redis.call('ZSCORE', KEYS[2], call) or 0) or 0
local held = held_until > now
if held and agent_of(lease_of(record)) ~= agent_of(lease) then
    return {'other_agent', agent_of(lease_of(record))}
end
if books.recovering > now and not held then
    if take then
        note_books(KEYS[3], books)
    end
    return {'recovering', books.recovering - now}
end

local known = redis.call('HMGET', KEYS[6], 'limit', 'reserved', 'version', 'fence', 'kept')
local agent_is_news = not known[3] or agent_version > tonumber(known[3])
if not agent_is_news then
    limit, reserved, agent_version = tonumber(known[1]), tonumber(known[2]), tonumber(known[3])
end
local fence = tonumber(known[4] or 0)
local tenant_is_news = not books.version or tenant_version > books.version
if not tenant_is_news then
    tenant_limit, tenant_version = books.limit, books.version
end

-- Whoever waits came before, whatever the clock was set to since.
local bound = string.format('%.0f', math.max(now_us, books.arrived) - AGE_US * priority)
local waiting = anyone_waits()
local ahead = NOBODY
if waiting and not held then
    ahead = serve({limit = limit, reserved = reserved, cap = tenant_limit, bound = bound, dry = not take, call = call})
    fence = tonumber(redis.call('HGET', KEYS[6], 'fence') or 0)
end
local counted = take and NOBODY or ahead -- who was only counted holds nothing yet
local used_inbound = live_in(KEYS[4]) + counted.inbound
local used_outbound = live_in(KEYS[5]) + counted.outbound
local used = used_inbound + used_outbound
local queued, waited = 0, -1
if waiting then
    queued, waited = queue_figures()
end

local function first_expiry_in(...)
    local soonest = TTL_MAX_MS -- nothing is held: the limit itself is zero, and no expiry will help
    for _, zset in ipairs({...}) do
        local first = redis.call('ZRANGEBYSCORE', zset, AFTER_NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        if first[2] then
            soonest = math.min(soonest, tonumber(first[2]) - now)
        end
    end
    return soonest
end

-- Dear where a tenant has many leases, and of no use to a grant without a cap.
local function tenant_used()
    return live_in(KEYS[2]) + counted.all
end

local function denied(scope, ...)
    return {'denied', scope, first_expiry_in(...), tenant_used(), tenant_limit,
        used, used_outbound, limit, reserved, queued, waited}
end

local denial
if held then
    denial = nil
elseif used >= limit then
    denial = denied('agent', KEYS[4], KEYS[5])
elseif outbound and used_outbound >= limit - reserved then
    denial = denied('inbound_reserve', KEYS[5])
elseif tenant_limit > 0 and tenant_used() >= tenant_limit then
    denial = denied('tenant', KEYS[2])
end

local granted = not (held or denial)
-- A set without a live entry may not exist, and a key that is made anew has no end yet.
local is_first_of_agent = granted and used == 0
local is_first_of_its_set = granted and (outbound and used_outbound or used_inbound) == 0
local keep_again = not known[5] or now >= tonumber(known[5]) + KEEP_AGAIN_MS or is_first_of_agent

if held then
    expiry = math.max(expiry, held_until)
elseif granted then
    fence = math.max(fence + 1, now_us)
    record = ARGV[5] .. lease .. session .. struct.pack('>I8', take and fence or 0)
    if outbound then
        used_outbound = used_outbound + 1
    end
    used = used + 1
end
local claimed = held and is_offer(record)
if claimed then
    record = string.upper(string.sub(record, 1, 1)) .. string.sub(record, 2)
end
local shared = held and lease_of(record) ~= lease and not is_shared(record)
if shared then
    record = record .. SHARED
end
local answer = denial
    or {held and 'existing' or 'granted', bare(record), expiry, used, used_outbound, limit, reserved, queued, waited}
if not take then
    return answer
end

-- From here on it writes.
if agent_is_news then
    redis.call('HSET', KEYS[6], 'limit', limit, 'reserved', reserved, 'version', agent_version, 'fence', fence)
elseif granted then
    redis.call('HSET', KEYS[6], 'fence', fence)
end
if tenant_is_news then
    redis.call('HSET', KEYS[3], 'limit', tenant_limit, 'version', tenant_version)
end
if granted or claimed or shared then
    redis.call('HSET', KEYS[1], call, record)
end
if (granted or claimed) and ARGV[14] ~= '' then
    keep_unwritten(KEYS[11], 'o', session_of(record), struct.pack('>I8', expiry) .. bare(record) .. ARGV[14])
end
if granted and waiting then
    admitted(call)
end
local zset = record and is_outbound(record) and KEYS[5] or KEYS[4]
if not denial then
    redis.call('ZADD', KEYS[2], expiry, call)
    redis.call('ZADD', zset, expiry, fence_of(record))
end
note_books(KEYS[3], books)
reap(books, KEYS[1], KEYS[2], KEYS[4], KEYS[5])
if keep_again then
    redis.call('HSET', KEYS[6], 'kept', now)
    for i = 1, 6 do
        keep(KEYS[i])
    end
elseif is_first_of_its_set then
    keep(zset)
end
return answer
