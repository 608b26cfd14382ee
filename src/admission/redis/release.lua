-- Frees the slot that a lease holds, if it still holds one, and remembers for a while that it was released.
--
-- KEYS:
--  1 calls  2 leases  3 inbound  4 outbound  5 agent_limits  6 tenant_limits  (see lib.lua)
--
-- ARGV:
--  1 [string]  call id
--  2 [bytes]   lease (32)
--  3 [string]  server
--
-- Result: {tag, used, used_outbound, limit, reserved}, the tag being
--  * 'released'  it was live until now
--  * 'gone'      released or expired before, never known, or not the call's current lease; nothing changed, save that
--                a lease that may be lost is remembered as released, so that its holder does not bring it back
-- or {'unopened'} alone.
keys_are(6)
local call = ARGV[1]
local lease = sized(ARGV[2], 32, 'lease')

local books = books_of(KEYS[6], ARGV[3])
if not books then return {'unopened'} end

local record = redis.call('HGET', KEYS[1], call)
local expiry = record and tonumber(redis.call('ZSCORE', KEYS[2], call) or 0) or 0
local known = redis.call('HMGET', KEYS[5], 'limit', 'reserved')
local tag = 'gone'

-- From here on it writes.
if expiry > now and lease_of(record) == lease then
    tag = 'released'
    redis.call('ZADD', KEYS[2], -(now + TOMBSTONE_MS), call)
    redis.call('ZREM', is_outbound(record) and KEYS[4] or KEYS[3], fence_of(record))
    reap(books, KEYS[1], KEYS[2], KEYS[3], KEYS[4])
elseif not record and books.misses then
    -- Neither its session nor its fence is known, nor will anybody ask.
    redis.call('HSET', KEYS[1], call, 'I' .. lease .. string.rep('\0', 24))
    redis.call('ZADD', KEYS[2], -(now + TOMBSTONE_MS), call)
    keep(KEYS[1])
    keep(KEYS[2])
end
note_books(KEYS[6], books)

local used_outbound = live_in(KEYS[4])
return {tag, live_in(KEYS[3]) + used_outbound, used_outbound, tonumber(known[1] or 0), tonumber(known[2] or 0)}
