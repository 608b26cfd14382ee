-- Frees the slot that a lease holds, if it still holds one, grants it to whoever waits for it, and remembers for a
-- while that it was released. How the session ended, if it is said, is kept in the same step.
--
-- KEYS: 1 to 10, see queue.lua  11 unwritten  (see lib.lua)
--
-- ARGV:
--  1 [string]  call id
--  2 [bytes]   lease (32)
--  3 [string]  server
--  4 [bytes]   how the session ends, empty: that is written elsewhere
--  5 [string]  `any`, or `unshared`: only if no other request was answered the lease
--
-- Result: {tag, used, used_outbound, limit, reserved, queued, waited_ms, session, opening}, the tag being
--  * 'released'  it was live until now; session (16 bytes) held it if its end was said, and its opening is not written
--                yet unless empty
--  * 'gone'      released or expired before, never known, or not the call's current lease; nothing changed, save that
--                a lease that may be lost is remembered as released, so that its holder does not bring it back
-- or {'unopened'} alone.
keys_are(11, KEYS)
local call = ARGV[1]
local lease = sized(ARGV[2], 32, 'lease')

if ARGV[5] ~= 'any' and ARGV[5] ~= 'unshared' then error('bad kind of lease') end
local any = ARGV[5] == 'any'

local books = books_of(KEYS[3], ARGV[3])
if not books then return {'unopened'} end

local record = redis.call('HGET', KEYS[1], call)
local expiry = record and tonumber(redis.call('ZSCORE', KEYS[2], call) or 0) or 0
local known = redis.call('HMGET', KEYS[6], 'limit', 'reserved')
local tag, session, opening = 'gone', '', ''
local waiting = anyone_waits()

-- From here on it writes.
if expiry > now and lease_of(record) == lease and (any or not is_shared(record)) then
    tag = 'released'
    redis.call('ZADD', KEYS[2], -(now + TOMBSTONE_MS), call)
    redis.call('ZREM', is_outbound(record) and KEYS[5] or KEYS[4], fence_of(record))
    if ARGV[4] ~= '' then
        session = session_of(record)
        opening = redis.call('HGET', KEYS[11], 'o' .. session) or ''
        keep_unwritten(KEYS[11], 'e', session, ARGV[4])
    end
    if waiting then
        serve({cap = tonumber(redis.call('HGET', KEYS[3], 'limit') or 0), bound = '+inf'})
    end
    reap(books, KEYS[1], KEYS[2], KEYS[4], KEYS[5])
elseif any and not record and books.misses then
    -- Neither its session nor its fence is known, nor will anybody ask.
    redis.call('HSET', KEYS[1], call, 'I' .. lease .. string.rep('\0', 24))
    redis.call('ZADD', KEYS[2], -(now + TOMBSTONE_MS), call)
    keep(KEYS[1])
    keep(KEYS[2])
end
note_books(KEYS[3], books)

local used_outbound = live_in(KEYS[5])
local queued, waited = 0, -1
if waiting then
    queued, waited = queue_figures()
end
return {tag, live_in(KEYS[4]) + used_outbound, used_outbound, tonumber(known[1] or 0), tonumber(known[2] or 0),
    queued, waited, session, opening}
