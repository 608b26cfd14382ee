-- Takes a call out of the queue; or, if a slot was granted to it that nobody claimed, gives that to the next.
--
-- KEYS: 1 to 10, see queue.lua
--
-- ARGV:
--  1 [string]  call id
--  2 [bytes]   lease (32) of its ticket
--  3 [string]  replica (16)
--
-- Result, a tag:
--  * 'ticket'   it waited
--  * 'offer'    it had been granted a slot
--  * 'nothing'  neither; the ticket is another's, or the slot was claimed
keys_are(10)
local call = ARGV[1]
local lease = sized(ARGV[2], 32, 'lease')
local replica = sized(ARGV[3], 16, 'replica')

local ticket = redis.call('HGET', tickets_of(replica), call)
if ticket and string.sub(ticket, 11, 42) == lease then
    local line = keys_of(AGENT)
    remove(queue_of(line, ticket), member_of(ticket, replica, call), replica, call)
    touch(line)
    return 'ticket'
end

local record = redis.call('HGET', KEYS[1], call)
if not record or not is_offer(record) or lease_of(record) ~= lease or not is_held(call) then
    return 'nothing'
end
redis.call('ZREM', is_outbound(record) and KEYS[5] or KEYS[4], fence_of(record))
redis.call('ZREM', KEYS[2], call)
redis.call('HDEL', KEYS[1], call)
serve({cap = tonumber(redis.call('HGET', KEYS[3], 'limit') or 0), bound = '+inf'})
return 'offer'
