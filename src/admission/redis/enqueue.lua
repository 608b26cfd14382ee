-- Puts a call into its agent's queue, or takes its ticket over, and grants what is free.
--
-- KEYS: 1 to 10, see queue.lua
--
-- ARGV:
--  1 [string]  `take`, or `probe`: the same answer, and nothing written
--  2 [string]  call id
--  3 [bytes]   lease (32) that the grant is to have; its first half is the agent
--  4 [bytes]   session (16) that the grant is to have
--  5 [string]  direction, `I` or `O`
--  6 [number]  priority
--  7 [string]  replica (16)
--  8 [number]  arrived_us of a ticket that this store has lost, 0 for a new one
--  9 [number]  how many may wait for the agent
-- 10 [number]  agent_limit    11 [number] reserved_inbound   12 [number] agent_version
-- 13 [number]  tenant_limit (0: none)                        14 [number] tenant_version
--
-- Result, by its tag:
--  * {'unopened'}  see lib.lua
--  * {'held'}      the call holds a lease, or was granted one by this; acquiring for it answers which
--  * {'full', queued}
--  * {'waiting', position, estimate_ms (-1: unknown), arrived_us}
keys_are(10)
if ARGV[1] ~= 'take' and ARGV[1] ~= 'probe' then error('bad mode') end
if ARGV[5] ~= 'I' and ARGV[5] ~= 'O' then error('bad direction') end
local take = ARGV[1] == 'take'
local call = ARGV[2]
local lease = sized(ARGV[3], 32, 'lease')
local session = sized(ARGV[4], 16, 'session')
local priority = integer(ARGV[6], 0, 255, 'priority')
local replica = sized(ARGV[7], 16, 'replica')
local arrived = integer(ARGV[8], 0, EXACT_MAX, 'arrived')
local depth = integer(ARGV[9], 0, EXACT_MAX, 'depth')
local limit = integer(ARGV[10], 0, EXACT_MAX, 'agent_limit')
local reserved = integer(ARGV[11], 0, EXACT_MAX, 'reserved_inbound')
local agent_version = integer(ARGV[12], 0, EXACT_MAX, 'agent_version')
local cap = integer(ARGV[13], 0, EXACT_MAX, 'tenant_limit')
local tenant_version = integer(ARGV[14], 0, EXACT_MAX, 'tenant_version')

if redis.call('HEXISTS', KEYS[3], 'open') == 0 then return {'unopened'} end
if is_held(call) then
    return {'held'}
end

local line = keys_of(AGENT)
-- A place that was had before, on whichever replica it was: it is kept, and full is no reason to lose it.
local former, former_replica
for _, other in ipairs(redis.call('ZRANGE', REPLICAS, 0, -1)) do
    local ticket = redis.call('HGET', tickets_of(other), call)
    if ticket then
        former, former_replica = ticket, other
    end
end
local is_same_agent = former and agent_of(string.sub(former, 11, 42)) == agent_of(lease)
if is_same_agent then
    arrived = struct.unpack('>I8', former, 3)
elseif arrived > 0 then
    arrived = math.min(math.max(arrived, now_us - TICKETS_KEEP_MS * 1000), now_us)
end
local queued = queued_in(line)
if arrived == 0 and queued >= depth then
    return {'full', queued}
end
if arrived == 0 then
    -- Rises strictly, so that no two came at once and a clock that steps back makes nobody earlier.
    arrived = math.max(now_us, tonumber(redis.call('HGET', KEYS[3], 'arrived') or 0) + 1)
    if take then
        redis.call('HSET', KEYS[3], 'arrived', arrived)
    end
end
local ticket = ARGV[5] .. string.char(priority) .. struct.pack('>I8', arrived) .. lease .. session
if not take then
    local position = place_of(line, ticket, replica, call)
    return {'waiting', position, estimate_ms(interval_of(line), position), arrived}
end

-- From here on it writes.
if former then
    local there = is_same_agent and line or keys_of(spelt(agent_of(string.sub(former, 11, 42))))
    remove(queue_of(there, former), member_of(former, former_replica, call), former_replica, call)
    touch(there)
    if former_replica ~= replica then
        wake(former_replica, 'T', call)
    end
end
limit, reserved, cap = learn(limit, reserved, agent_version, cap, tenant_version)
if queued == 0 then
    redis.call('HSET', KEYS[6], 'freed_at', now_us)
end
keep(KEYS[3])
keep(KEYS[6])
redis.call('ZADD', REPLICAS, now + ALIVE_MS, replica)
redis.call('PEXPIRE', REPLICAS, TICKETS_KEEP_MS)
alive_of[replica] = true
local queue = queue_of(line, ticket)
redis.call('HSET', tickets_of(replica), call, ticket)
redis.call('PEXPIRE', tickets_of(replica), TICKETS_KEEP_MS)
redis.call('ZADD', queue, score_of(ticket), member_of(ticket, replica, call))
redis.call('PEXPIRE', queue, TICKETS_KEEP_MS)
touch(line)
serve({limit = limit, reserved = reserved, cap = cap, bound = '+inf'})
if is_held(call) then
    return {'held'}
end
local position = place_of(line, ticket, replica, call)
return {'waiting', position, estimate_ms(interval_of(line), position), arrived}
