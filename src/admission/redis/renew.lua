-- Moves the expiry of up to 1,000 leases to now + ttl, never nearer.
--
-- KEYS:
--  1 calls  2 leases  3 tenant_limits, and 3 for each agent among the leases:
--  4 inbound  5 outbound  6 agent_limits, …  (see lib.lua)
--
-- ARGV: [string] server; then 2 a lease (each element costs; and what follows the lease is the same for most of a
-- node's leases):
--  1 [string]  call id
--  2 [bytes]   lease (32), then as text `lease_ttl_ms:agent`, the agent being its place in KEYS, from 1
--
-- Result: one element a lease, in order, by its type and tag:
--  * [number]  renewed: expiry_ms
--  * 'lost'      expired, never known, or not the call's current lease
--  * 'released'  the call's last lease was this one, and it was released within TOMBSTONE_MS
--  * 'missing'   the call is not known, and data was lost lately: it may be readmitted
-- or {'unopened'} alone.
local agents = #KEYS / 3 - 1
if agents < 1 or agents ~= math.floor(agents) then error('bad number of keys') end
local count = (#ARGV - 1) / 2
if count < 1 or count ~= math.floor(count) or count > 1000 then error('bad number of arguments') end

local books = books_of(KEYS[3], ARGV[1])
if not books then return {'unopened'} end

-- `lease_ttl_ms:agent` -> what it means for a lease, its expiry also as the text that a thousand scores are.
local term_of = {}
local function term(text)
    local ttl, agent = string.match(text, '^(%d+):(%d+)$')
    local expiry = now + integer(ttl, TTL_MIN_MS, TTL_MAX_MS, 'lease_ttl_ms')
    local base = 3 * integer(agent, 1, agents, 'agent')
    term_of[text] = {expiry = expiry, score = string.format('%.0f', expiry), base = base}
    return term_of[text]
end

local calls, leases, terms = {}, {}, {}
for i = 1, count do
    local named = ARGV[2 * i + 1]
    local text = string.sub(named, 33)
    calls[i], leases[i], terms[i] = ARGV[2 * i], string.sub(named, 1, 32), term_of[text] or term(text)
end

local records = redis.call('HMGET', KEYS[1], unpack(calls))
local scores = redis.call('ZMSCORE', KEYS[2], unpack(calls))

local answer = {}
local moved = {} -- call id -> its new expiry: a lease may be named twice
local entries_of, size_of = {}, {} -- by place in KEYS, a zset's {score, member, score, member, …}
for i = 1, #KEYS do
    entries_of[i], size_of[i] = {}, 0
end
local function move(zset, score, member)
    local entries, size = entries_of[zset], size_of[zset]
    entries[size + 1], entries[size + 2] = score, member
    size_of[zset] = size + 2
end
local renewed_of = {} -- an agent's place in KEYS -> true

for i, call in ipairs(calls) do
    local record, score = records[i], tonumber(scores[i] or 0)
    if not record and books.misses then
        answer[i] = 'missing'
    elseif not record or lease_of(record) ~= leases[i] or math.abs(score) <= now then
        answer[i] = 'lost'
    elseif score < 0 then
        answer[i] = 'released'
    else
        local asked, held_until = terms[i], moved[call] or score
        if asked.expiry > held_until then
            moved[call] = asked.expiry
            move(2, asked.score, call)
            move(asked.base + (is_outbound(record) and 2 or 1), asked.score, fence_of(record))
        end
        renewed_of[asked.base] = true
        answer[i] = math.max(asked.expiry, held_until)
    end
end

-- From here on it writes.
for i, entries in ipairs(entries_of) do
    if size_of[i] > 0 then
        redis.call('ZADD', KEYS[i], unpack(entries))
    end
end
note_books(KEYS[3], books)
reap(books, KEYS[1], KEYS[2])
if next(renewed_of) then
    for i = 1, 3 do
        keep(KEYS[i])
    end
end
for base in pairs(renewed_of) do
    for i = base + 1, base + 3 do
        keep(KEYS[i])
    end
end
return answer
