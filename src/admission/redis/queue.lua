-- Who waits for a slot, and the grant to the one whose turn it is; put behind lib.lua in each script that frees,
-- grants or counts.
--
-- A slot that comes free is granted to its waiter by the script that sees it free, so nobody can come between: the
-- waiter holds an *offer*, an ordinary lease of OFFER_MS that its replica claims by acquiring for the call. What is
-- not claimed runs out, like every lease. The wake is a message to the replica and, since messages are lost, a line
-- in its mailbox, which it empties whenever it tends its tickets.
--
-- The order is a score that never moves: the moment of arrival in µs, less a second for each of priority. Who has
-- waited a second longer is thus worth one more of priority, and equals are served as they came.
--
-- A ticket lives as long as its replica tends: one that has not for ALIVE_MS is taken for dead, its tickets are
-- passed over, and the other replicas remove them.
--
-- KEYS (in each script that has this in front, save tenant_usage.lua; each part's own in a batch):
--  1 calls  2 leases  3 tenant_limits  4 inbound  5 outbound  6 agent_limits  (see lib.lua), and
--  * [zset]   7 queue_in, 8 queue_out  member -> score; those who wait for the agent, by their direction
--  * [zset]   9 replicas               replica (16 hex) -> until when it is taken for alive, in ms
--  * [zset]  10 agents                 agent -> score of the first who waits for it
--  Named by a script itself, in the same hash slot: the keys of other agents where the tenant's cap binds,
--  * [hash]  <replica>:tickets         call id -> ticket
--  * [list]  <replica>:woken           `G` granted or `T` taken over, then the call id
--  tenant_limits also has arrived: the last moment of arrival given, in µs.
--  agent_limits also has freed_at and freed_every: when a slot last went to a waiter, and how far apart they do, in µs.
--
-- A member is arrived (8, big endian), replica (16), call id. A ticket is 58 bytes: direction (I or O), priority (1),
-- arrived (8), lease (32), session (16).
--
-- ARGV (none here)
--
-- Result: none; it only defines locals.

local TENANT = string.sub(KEYS[1], 1, -6) -- without `calls`
local AGENT, looked -- the agent of KEYS[6], and how many tickets were looked at for it
local REPLICAS = TENANT .. 'replicas'
local AGENTS = TENANT .. 'agents'
local ALIVE_MS = 3000 -- a replica tends each second
local OFFER_MS = 5000 -- a claim takes milliseconds; this is what a replica's death costs a slot
local TICKETS_KEEP_MS = 150000 -- the longest wait, and what is left of a dead replica ends with it
local WOKEN_KEEP_MS = 10000 -- two offers
local AGE_US = 1000000
local GRANTS_MAX = 50 -- a call; what is left waits for another, which the replicas make at once
local LOOK_MAX = 100 -- at tickets, dead ones included
local CHUNK = 8 -- tickets read ahead
local AGENTS_MAX = 20 -- looked at where the tenant's cap binds
local NOBODY = {all = 0, inbound = 0, outbound = 0}

-- Before each part of a batch, and once where there is none.
local function begin_part()
    AGENT, looked = KEYS[6] and string.sub(KEYS[6], #TENANT + 1, -8), 0 -- without `:limits`
end
begin_part()

local function anyone_waits()
    return redis.call('EXISTS', AGENTS) == 1
end

local function tickets_of(replica)
    return TENANT .. replica .. ':tickets'
end

local function member_of(ticket, replica, call)
    return string.sub(ticket, 3, 10) .. replica .. call
end

local function score_of(ticket)
    return struct.unpack('>I8', ticket, 3) - AGE_US * string.byte(ticket, 2)
end

local function queue_of(line, ticket)
    return is_outbound(ticket) and line.queue_out or line.queue_in
end

-- The agent in a lease id as its keys spell it.
local function spelt(agent)
    local hex = string.gsub(agent, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
    return string.format('%s-%s-%s-%s-%s', string.sub(hex, 1, 8), string.sub(hex, 9, 12), string.sub(hex, 13, 16),
        string.sub(hex, 17, 20), string.sub(hex, 21, 32))
end

local function keys_of(agent)
    local base = TENANT .. agent
    return {agent = agent, inbound = base .. ':in', outbound = base .. ':out', limits = base .. ':limits',
        queue_in = base .. ':queue:in', queue_out = base .. ':queue:out'}
end

-- The same with its figures; limits are the newest known where none are given.
local function line_of(agent, limit, reserved)
    local line = keys_of(agent)
    if not limit then
        local known = redis.call('HMGET', line.limits, 'limit', 'reserved')
        limit, reserved = tonumber(known[1] or 0), tonumber(known[2] or 0)
    end
    line.limit, line.reserved = limit, reserved
    line.used_inbound, line.used_outbound = live_in(line.inbound), live_in(line.outbound)
    line.ahead_in = {key = line.queue_in, entries = {}, next = 1, passed = 0}
    line.ahead_out = {key = line.queue_out, entries = {}, next = 1, passed = 0}
    return line
end

local alive_of = {}
local function is_alive(replica)
    if alive_of[replica] == nil then
        alive_of[replica] = tonumber(redis.call('ZSCORE', REPLICAS, replica) or 0) > now
    end
    return alive_of[replica]
end

local function is_held(call)
    return tonumber(redis.call('ZSCORE', KEYS[2], call) or 0) > now
end

local function wake(replica, kind, call)
    local mailbox = TENANT .. replica .. ':woken'
    redis.call('RPUSH', mailbox, kind .. call)
    redis.call('PEXPIRE', mailbox, WOKEN_KEEP_MS)
    redis.call('PUBLISH', 'vg:wake:' .. replica, kind .. string.sub(TENANT, 5, 40) .. call)
end

local function remove(queue, member, replica, call)
    redis.call('ZREM', queue, member)
    redis.call('HDEL', tickets_of(replica), call)
end

-- The first of both directions: member and score, or nothing.
local function first_in(line)
    local inbound = redis.call('ZRANGE', line.queue_in, 0, 0, 'WITHSCORES')
    local outbound = redis.call('ZRANGE', line.queue_out, 0, 0, 'WITHSCORES')
    local first = inbound
    if not inbound[1] or outbound[1] and tonumber(outbound[2]) < tonumber(inbound[2]) then
        first = outbound
    end
    return first[1], tonumber(first[2])
end

-- Notes who is first, after whoever it was has come or gone.
local function touch(line)
    local member, score = first_in(line)
    if member then
        redis.call('ZADD', AGENTS, score, line.agent)
        redis.call('PEXPIRE', AGENTS, TICKETS_KEEP_MS)
    else
        redis.call('ZREM', AGENTS, line.agent)
    end
end

-- queued, waited_ms: how many wait, and how long the first of them has; -1 where nobody does.
local function queued_in(line)
    local member = first_in(line)
    if not member then
        return 0, -1
    end
    local waited_us = math.max(0, now_us - struct.unpack('>I8', member))
    local queued = redis.call('ZCARD', line.queue_in) + redis.call('ZCARD', line.queue_out)
    return queued, math.floor(waited_us / 1000)
end

-- The same for a reply about the agent. Where no replica is alive nobody waits, whatever is left of those that were.
local function queue_figures()
    if #redis.call('ZRANGEBYSCORE', REPLICAS, AFTER_NOW, '+inf', 'LIMIT', 0, 1) == 0 then
        return 0, -1
    end
    return queued_in(keys_of(AGENT))
end

-- The first of one direction whose turn may come. Who is dead, or was admitted by another request, goes.
local function head(ahead, task)
    while not ahead.head do
        if ahead.next > #ahead.entries then
            if ahead.ended or looked >= LOOK_MAX then
                return nil
            end
            local from = task.dry and ahead.passed or 0
            ahead.entries = redis.call('ZRANGEBYSCORE', ahead.key, '-inf', task.bound, 'LIMIT', from, CHUNK)
            ahead.next, ahead.ended = 1, #ahead.entries < CHUNK
        else
            local member = ahead.entries[ahead.next]
            ahead.next, ahead.passed, looked = ahead.next + 1, ahead.passed + 1, looked + 1
            local replica, call = string.sub(member, 9, 24), string.sub(member, 25)
            local ticket = is_alive(replica) and redis.call('HGET', tickets_of(replica), call)
            ticket = ticket and string.sub(ticket, 3, 10) == string.sub(member, 1, 8) and ticket
            local held = ticket and is_held(call)
            if ticket and not held then
                ahead.head = {member = member, replica = replica, call = call, ticket = ticket,
                    score = score_of(ticket), queue = ahead.key}
            elseif not task.dry then
                redis.call('ZREM', ahead.key, member)
                if ticket then
                    redis.call('HDEL', tickets_of(replica), call)
                    wake(replica, 'G', call)
                end
            end
        end
    end
    return ahead.head
end

-- Whose turn it is on the line, if the line has room for them.
local function next_of(line, task)
    if line.used_inbound + line.used_outbound >= line.limit then
        return nil
    end
    local inbound = head(line.ahead_in, task)
    local outbound = line.used_outbound < line.limit - line.reserved and head(line.ahead_out, task) or nil
    if inbound and outbound then
        local earlier = inbound.score < outbound.score
            or inbound.score == outbound.score and inbound.member < outbound.member
        return earlier and inbound or outbound
    end
    return inbound or outbound
end

-- How far apart slots come free for those who wait: a mean that forgets an eighth with each.
local function note_freed(line)
    local known = redis.call('HMGET', line.limits, 'freed_at', 'freed_every')
    local span = known[1] and math.max(0, now_us - tonumber(known[1])) or 0
    local every = known[2] and tonumber(known[2]) + math.floor((span - tonumber(known[2])) / 8) or span
    redis.call('HSET', line.limits, 'freed_at', now_us, 'freed_every', every)
end

local function offer(line, waiter)
    local outbound = is_outbound(waiter.ticket)
    local zset = outbound and line.outbound or line.inbound
    local fence = math.max(tonumber(redis.call('HGET', line.limits, 'fence') or 0) + 1, now_us)
    local packed = struct.pack('>I8', fence)
    redis.call('ZADD', zset, now + OFFER_MS, packed)
    redis.call('HSET', line.limits, 'fence', fence)
    local record = (outbound and 'o' or 'i') .. string.sub(waiter.ticket, 11, 58) .. packed
    redis.call('HSET', KEYS[1], waiter.call, record)
    redis.call('ZADD', KEYS[2], now + OFFER_MS, waiter.call)
    keep(zset)
    keep(line.limits)
    keep(KEYS[1])
    keep(KEYS[2])
    note_freed(line)
    remove(waiter.queue, waiter.member, waiter.replica, waiter.call)
    wake(waiter.replica, 'G', waiter.call)
end

-- How many may be granted in a call: none while the tenant's leases cannot be known (see `books_of`).
local function grants_max()
    local books = redis.call('HMGET', KEYS[3], 'open', 'recovering')
    return books[1] and tonumber(books[2] or 0) <= now and GRANTS_MAX or 0
end

-- Grants what is free to those who wait, in their order. `task`:
--  * limit, reserved  the agent's, if newer than what is kept; else absent
--  * cap              the tenant's; 0: none. With one, those who wait for the tenant's other agents are candidates too
--  * bound            the last score whose turn it may be, as text
--  * dry              only count
--  * call             one that asks for itself: it ends there when its turn has come
-- Answers how many: in all, and of the agent by their direction; and whether there may be more to do.
local function serve(task)
    local own = line_of(AGENT, task.limit, task.reserved)
    local lines, room = {own}, grants_max()
    if task.cap > 0 then
        room = math.min(room, task.cap - live_in(KEYS[2]))
        for _, agent in ipairs(room > 0 and redis.call('ZRANGE', AGENTS, 0, AGENTS_MAX - 1) or {}) do
            if agent ~= AGENT then
                lines[#lines + 1] = line_of(agent)
            end
        end
    end
    local served = {all = 0, inbound = 0, outbound = 0}
    while served.all < room do
        local first, of
        for _, line in ipairs(lines) do
            local waiter = next_of(line, task)
            if waiter and (not first or waiter.score < first.score) then
                first, of = waiter, line
            end
        end
        if not first or first.call == task.call then
            break
        end
        local outbound = is_outbound(first.ticket)
        local used = outbound and 'used_outbound' or 'used_inbound'
        of[used], of[outbound and 'ahead_out' or 'ahead_in'].head = of[used] + 1, nil
        of.changed, served.all = true, served.all + 1
        if of == own then
            local way = outbound and 'outbound' or 'inbound'
            served[way] = served[way] + 1
        end
        if not task.dry then
            offer(of, first)
        end
    end
    if not task.dry then
        for _, line in ipairs(lines) do
            if line.changed or line.ahead_in.passed + line.ahead_out.passed > 0 then
                touch(line)
            end
        end
    end
    served.more = served.all >= GRANTS_MAX or looked >= LOOK_MAX
    return served
end

-- The newest limits, the request's among them, kept: limit, reserved, cap.
local function learn(limit, reserved, version, cap, cap_version)
    local known = redis.call('HMGET', KEYS[6], 'limit', 'reserved', 'version')
    if known[3] and tonumber(known[3]) >= version then
        limit, reserved = tonumber(known[1]), tonumber(known[2])
    else
        redis.call('HSET', KEYS[6], 'limit', limit, 'reserved', reserved, 'version', version)
        keep(KEYS[6])
    end
    known = redis.call('HMGET', KEYS[3], 'limit', 'version')
    if known[2] and tonumber(known[2]) >= cap_version then
        cap = tonumber(known[1])
    else
        redis.call('HSET', KEYS[3], 'limit', cap, 'version', cap_version)
        keep(KEYS[3])
    end
    return limit, reserved, cap
end

-- A call that was granted a slot by another request waits no longer, and its replica is told.
local function admitted(call)
    for _, replica in ipairs(redis.call('ZRANGE', REPLICAS, 0, -1)) do
        local ticket = redis.call('HGET', tickets_of(replica), call)
        if ticket then
            local line = keys_of(spelt(agent_of(string.sub(ticket, 11, 42))))
            remove(queue_of(line, ticket), member_of(ticket, replica, call), replica, call)
            touch(line)
            wake(replica, 'G', call)
        end
    end
end

-- position, arrived_us of a ticket, and whether it is in line: one that was passed over is not.
local function place_of(line, ticket, replica, call)
    local score = string.format('(%.0f', score_of(ticket))
    local mine, other = line.queue_in, line.queue_out
    if is_outbound(ticket) then
        mine, other = other, mine
    end
    local rank = redis.call('ZRANK', mine, member_of(ticket, replica, call))
    local position = 1 + (rank or redis.call('ZCOUNT', mine, '-inf', score)) + redis.call('ZCOUNT', other, '-inf', score)
    return position, struct.unpack('>I8', ticket, 3), rank and true
end

-- µs between two slots for those who wait; nil while there is nothing to go by. A slot that is overdue counts.
local function interval_of(line)
    local known = redis.call('HMGET', line.limits, 'freed_at', 'freed_every')
    if not known[2] then
        return nil
    end
    local every, since = tonumber(known[2]), now_us - tonumber(known[1])
    return since > every and every + math.floor((since - every) / 8) or every
end

local function estimate_ms(interval, position)
    return interval and math.floor(interval * position / 1000) or -1
end
