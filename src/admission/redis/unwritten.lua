-- What of one session the database may not have yet.
--
-- KEYS:
--  1 calls  2 unwritten  (see lib.lua)
--
-- ARGV:
--  1 [string]  `session`, or `call`: the session that the call's slot was last granted to
--  2 [bytes]   session (16) or call id
--
-- Result: {session, opening, ending}, either empty where it is not kept; {} where both are, or the call is unknown.
keys_are(2)
local session
if ARGV[1] == 'session' then
    session = sized(ARGV[2], 16, 'session')
elseif ARGV[1] == 'call' then
    local record = redis.call('HGET', KEYS[1], ARGV[2])
    if not record then
        return {}
    end
    session = session_of(record)
else
    error('bad kind of name')
end

local found = redis.call('HMGET', KEYS[2], 'o' .. session, 'e' .. session)
if not found[1] and not found[2] then
    return {}
end
return {session, found[1] or '', found[2] or ''}
