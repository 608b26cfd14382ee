-- What the slot scripts share; put in front of each of them when it is loaded.
--
-- All keys of a tenant lie in one hash slot (the tag is the tenant's id), so that a script may touch them
-- together on a cluster. Every key is given KEEP_MS to live when it is made and again at least each minute of use.
--
-- KEYS (none here; these are the names that the scripts' own headers use):
--  * [hash]   calls          call id -> record
--  * [zset]   leases         call id -> +expiry in ms of a live lease, -forgetting in ms of a released one
--  * [hash]   tenant_limits  limit, version: the newest that any replica has brought; and the tenant's books: open:
--                            since when, in ms; recovering: until when no new call is admitted; server: which Redis
--                            wrote here last; reasserting: until when leases are taken in that it may not have had
--  * [zset]   inbound        fence (8 bytes) -> expiry in ms; the agent's inbound leases
--  * [zset]   outbound       fence (8 bytes) -> expiry in ms; the agent's outbound leases
--  * [hash]   agent_limits   limit, reserved, version: the newest; fence: the last one given; kept: when the
--                            keys that an acquire touches were last given KEEP_MS
--  * [hash]   unwritten      `o` or `e`, session (16) -> how the session begins or ends, until the database has it:
--                            version (1), when it was kept in ms (8, big endian), then what domain/journal.rs reads:
--                            for `o` the lease's expiry in ms (8, big endian), its record and the caller's draft.
--                            It has UNWRITTEN_MS to live instead
--
-- A record is 57 bytes: direction (I or O; i or o while a waiter has not claimed it, see queue.lua), lease (32: agent 16,
-- serial 16), session (16), fence (8, big endian); then SHARED once it was answered to another request than the one that
-- it was granted to, which must not give it up any more because its own caller has gone.
-- It holds no expiry: that is a score, so renewing a thousand leases writes scores and nothing else. Entries of
-- `leases` whose distance from zero is not beyond now are dead, whatever their sign; so one range finds both
-- the expired and the forgotten. Dead entries count for nothing, so that no answer depends on their removal.
--
-- ARGV (none here; `server` in the scripts' own headers is `name@latest@ahead_since`: the name of the Redis that the
-- caller is connected to, or '' where it is not known; the latest moment in ms that its clock can say by the time that has
-- passed at the caller, or 0; and since when, in ms, it has been ahead because it was set, or 0)
--
-- Without `open` the tenant is not known: it has never been here, was idle until its keys ended, or the data is lost.
-- The caller can tell which, so a script then answers {'unopened'}, changes nothing, and open.lua follows. The same
-- where the clock was set ahead since they were opened: what it says of leases that were given before is not true.
--
-- Result: none; it only defines locals. `TIME` is the only clock. Needs Redis 6.2 (ZMSCORE).

local KEEP_MS = 720000 -- the longest lease, then the longest tombstone, the minute below, and one to spare
local KEEP_AGAIN_MS = 60000 -- not at each use: five PEXPIRE cost as much as the rest of an acquire
local UNWRITTEN_MS = 86400000 -- an outage of the database that lasts longer costs history
local UNWRITTEN_VERSION = '\2'
local TOMBSTONE_MS = 300000 -- how long a renewal is told RELEASED instead of LOST
local TTL_MIN_MS = 1
local TTL_MAX_MS = 300000
local REAP_TENANT = 50 -- with the two of REAP_AGENT: at most 100 removals a call,
local REAP_AGENT = 25 -- and only by
local REAP_ONE_IN = 8 -- of the calls, picked by the microsecond
local MOMENT_MS = 10000 -- replicas that find the same loss open the books within it
local EXACT_MAX = 9007199254740991 -- beyond it a Lua number skips integers

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)
local AFTER_NOW = string.format('(%.0f', now)

-- A server that may not write may not answer either: a replica, or a primary that was cut off from its replicas, holds
-- what is old, and a lease that was renewed elsewhere would be called lost. Deleting what is not there changes nothing,
-- and such a server refuses it. KEYS[1] is a hash in every script.
redis.call('HDEL', KEYS[1], '')

local function integer(text, least, most, name)
    local value = tonumber(text)
    if not value or value ~= math.floor(value) or value < least or value > most then
        error('bad ' .. name)
    end
    return value
end

local function sized(text, size, name)
    if not text or #text ~= size then
        error('bad ' .. name)
    end
    return text
end

local function keys_are(count, keys)
    if #(keys or KEYS) ~= count then
        error('bad number of keys')
    end
end

local SHARED = '+'

local function is_shared(record)
    return #record > 57
end

-- As it is told.
local function bare(record)
    return string.sub(record, 1, 57)
end

local function lease_of(record)
    return string.sub(record, 2, 33)
end

-- The first half of a lease id, also where it stands in a record.
local function agent_of(lease)
    return string.sub(lease, 1, 16)
end

local function session_of(record)
    return string.sub(record, 34, 49)
end

local function fence_of(record)
    return string.sub(record, 50, 57)
end

-- Also of a ticket, see queue.lua.
local function is_outbound(record)
    local direction = string.byte(record)
    return direction == 79 or direction == 111 -- O, o
end

-- Granted to one who waits, and not claimed yet.
local function is_offer(record)
    return string.byte(record) >= 97 -- i, o
end

local function live_in(zset)
    return redis.call('ZCOUNT', zset, AFTER_NOW, '+inf')
end

-- A key ends after its moment, a lease at it: one less makes both end alike.
local function keep(key)
    redis.call('PEXPIRE', key, KEEP_MS - 1)
end

local function witness_of(server)
    local name, latest, ahead_since = string.match(server, '^([^@]*)@(%d+)@(%d+)$')
    if not name then
        error('bad server')
    end
    return name, tonumber(latest), tonumber(ahead_since)
end

-- The tenant's books with its newest limit, or nothing where they are not open, and then whether that is for the clock.
-- A Redis by another name than the one that wrote here last may have lost what that one acknowledged: for one longest
-- lease, holders may assert theirs again.
local function books_of(limits, witness)
    local server, latest, ahead_since = witness_of(witness)
    local known = redis.call('HMGET', limits, 'open', 'recovering', 'reasserting', 'server',
        'limit', 'version', 'arrived')
    if not known[1] then
        return nil, false
    end
    local opened, recovering = tonumber(known[1]), tonumber(known[2] or 0)
    -- Written by a clock that was ahead and has been set back: what was left of a recovery then is left of it now.
    local is_moved = opened > now
    if is_moved then
        opened, recovering = now, math.max(recovering - (opened - now), 0)
    end
    if latest > 0 and now > latest or opened < ahead_since then
        return nil, true
    end
    local books = {opened = opened, recovering = recovering, is_moved = is_moved,
        limit = tonumber(known[5] or nil), version = tonumber(known[6] or nil), arrived = tonumber(known[7] or 0)}
    local reasserting = tonumber(known[3] or 0)
    if server ~= '' and known[4] ~= server then
        books.server = server
        if known[4] and known[4] ~= '' then
            reasserting = now + TTL_MAX_MS
        end
    end
    books.reasserting = reasserting
    -- While a lease without record may be one that was lost.
    books.misses = math.max(books.recovering, reasserting) > now
    return books
end

-- Keeps what `books_of` has found out.
local function note_books(limits, books)
    if books.server then
        redis.call('HSET', limits, 'server', books.server, 'reasserting', books.reasserting)
    end
    if books.is_moved then
        redis.call('HSET', limits, 'open', books.opened, 'recovering', books.recovering)
    end
end

local function keep_unwritten(key, kind, session, text)
    redis.call('HSET', key, kind .. session, UNWRITTEN_VERSION .. struct.pack('>I8', now) .. text)
    redis.call('PEXPIRE', key, UNWRITTEN_MS)
end

-- Bounded: what is left waits for another call, or for the key's own end. While leases may be missing, the records of
-- those that have expired stay: it is by them that an expired lease is told from a lost one.
local function reap(books, calls, leases, ...)
    if now_us % REAP_ONE_IN ~= 0 then
        return
    end
    for _, zset in ipairs({...}) do
        local expired = redis.call('ZCOUNT', zset, '-inf', now)
        if expired > 0 then
            redis.call('ZREMRANGEBYRANK', zset, 0, math.min(expired, REAP_AGENT) - 1)
        end
    end
    if books.misses then
        return
    end
    local dead = redis.call('ZRANGEBYSCORE', leases, -now, now, 'LIMIT', 0, REAP_TENANT)
    if #dead > 0 then
        redis.call('ZREM', leases, unpack(dead))
        redis.call('HDEL', calls, unpack(dead))
    end
end
