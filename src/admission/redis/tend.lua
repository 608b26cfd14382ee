-- Says that a replica is there, grants what has come free meanwhile, and tells where some of its tickets stand.
--
-- KEYS: 1 to 10, see queue.lua
--
-- ARGV:
--  1 [string]  replica (16)
--  2 [number]  agent_limit     3 [number] reserved_inbound   4 [number] agent_version
--  5 [number]  tenant_limit (0: none)                        6 [number] tenant_version
--  7 [string]  call ids of the agent's tickets, 0 to 1,000
--
-- Result: {more, next_expiry_in_ms, woken, standing, …}
--  * more      1: there is more to do now
--  * woken     {text, …}, at most 100: what the mailbox held, see queue.lua
--  * standing  by its type and tag, one a call in order:
--     * {position, estimate_ms (-1: unknown), arrived_us}
--     * 'held'   the call holds a lease; acquiring for it answers which
--     * 'taken'  another replica has the ticket now
--     * 'gone'   there is no ticket, and no lease
keys_are(10)
local replica = sized(ARGV[1], 16, 'replica')
local limit = integer(ARGV[2], 0, EXACT_MAX, 'agent_limit')
local reserved = integer(ARGV[3], 0, EXACT_MAX, 'reserved_inbound')
local agent_version = integer(ARGV[4], 0, EXACT_MAX, 'agent_version')
local cap = integer(ARGV[5], 0, EXACT_MAX, 'tenant_limit')
local tenant_version = integer(ARGV[6], 0, EXACT_MAX, 'tenant_version')
if #ARGV > 1006 then error('bad number of calls') end

-- From here on it writes.
redis.call('ZADD', REPLICAS, now + ALIVE_MS, replica)
redis.call('PEXPIRE', REPLICAS, TICKETS_KEEP_MS)
limit, reserved, cap = learn(limit, reserved, agent_version, cap, tenant_version)

-- One dead replica's tickets, at most LOOK_MAX a call. It is gone when they are.
local dead = redis.call('ZRANGEBYSCORE', REPLICAS, '-inf', now, 'LIMIT', 0, 1)[1]
if dead then
    local left = redis.call('HRANDFIELD', tickets_of(dead), LOOK_MAX, 'WITHVALUES')
    for i = 1, #left, 2 do
        local call, ticket = left[i], left[i + 1]
        local line = keys_of(spelt(agent_of(string.sub(ticket, 11, 42))))
        remove(queue_of(line, ticket), member_of(ticket, dead, call), dead, call)
        touch(line)
    end
    if #left < 2 * LOOK_MAX then
        redis.call('ZREM', REPLICAS, dead)
    end
end
local served = serve({limit = limit, reserved = reserved, cap = cap, bound = '+inf'})

local woken = redis.call('LPOP', TENANT .. replica .. ':woken', 100) or {}

local soonest = TTL_MAX_MS
for _, zset in ipairs({KEYS[4], KEYS[5], cap > 0 and KEYS[2] or nil}) do
    local first = redis.call('ZRANGEBYSCORE', zset, AFTER_NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if first[2] then
        soonest = math.min(soonest, tonumber(first[2]) - now)
    end
end

local line = keys_of(AGENT)
local interval = interval_of(line)
local answer = {(served.more or dead or #woken == 100) and 1 or 0, soonest, woken}
local others
local function is_elsewhere(call)
    others = others or redis.call('ZRANGE', REPLICAS, 0, -1)
    for _, other in ipairs(others) do
        if other ~= replica and redis.call('HEXISTS', tickets_of(other), call) == 1 then
            return true
        end
    end
    return false
end
for i = 7, #ARGV do
    local call = ARGV[i]
    local ticket = redis.call('HGET', tickets_of(replica), call)
    if is_held(call) then
        answer[i - 3] = 'held'
    elseif ticket then
        local position, arrived, in_line = place_of(line, ticket, replica, call)
        if not in_line and spelt(agent_of(string.sub(ticket, 11, 42))) == AGENT then
            -- Passed over while this replica was taken for dead, and it is served from now on.
            redis.call('ZADD', queue_of(line, ticket), score_of(ticket), member_of(ticket, replica, call))
            redis.call('PEXPIRE', queue_of(line, ticket), TICKETS_KEEP_MS)
            answer[1] = 1
        end
        answer[i - 3] = {position, estimate_ms(interval, position), arrived}
    else
        answer[i - 3] = is_elsewhere(call) and 'taken' or 'gone'
    end
end
if answer[1] == 1 then
    touch(line)
end
return answer
