-- What the scripts of the bus share; put before each of them.
--
-- Every key carries the tenant as hash tag:
--   nodes  hash: the tenant's connected nodes. Field: S or L, for which side of the sandbox fence, and the node's id;
--          value: {replica, stream, until_ms, load, profile} as JSON
--   mail   hash: one node's mail. Field `next`: the number of the newest letter; every other field is the number of a
--          letter that is not settled, with `sent_ms|given|letter`. Numbers begin with the clock's microseconds, so that
--          mail which was lost begins above all that was numbered before
--
-- KEYS: see each script
-- ARGV: see each script
-- Result: see each script
local function keys_are(count)
    if #KEYS ~= count then error('bad number of keys') end
end

local function integer(index)
    local value = tonumber(ARGV[index])
    if not value or value ~= math.floor(value) or value < 0 or value > 9007199254740991 then
        error('bad argument ' .. index)
    end
    return value
end

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

-- The stream that speaks for the node, if one does.
local function speaker(field)
    local entry = redis.call('HGET', KEYS[1], field)
    local node = entry and cjson.decode(entry)
    if node and node.until_ms >= now_ms then return node end
    return nil
end

-- Longer than any node is silent: the hash ends with the last of them.
local NODES_MS = 60000

local function seat(field, replica, stream, alive_ms, load, profile)
    local node = { replica = replica, stream = stream, until_ms = now_ms + alive_ms, load = load, profile = profile }
    redis.call('HSET', KEYS[1], field, cjson.encode(node))
    redis.call('PEXPIRE', KEYS[1], math.max(NODES_MS, alive_ms))
end

-- Calls with number, when it was sent, how often it was given, and the letter itself, for each that is not settled.
local function each_letter(see)
    local mail = redis.call('HGETALL', KEYS[2])
    for index = 1, #mail, 2 do
        if mail[index] ~= 'next' then
            local sent_ms, given, letter = string.match(mail[index + 1], '^(%d+)|(%d+)|(.*)$')
            see(mail[index], tonumber(sent_ms), tonumber(given), letter)
        end
    end
end

-- Tells all replicas that a node has come or gone.
local function tell_all()
    redis.call('PUBLISH', 'vg:nodes', string.match(KEYS[1], '{(.*)}'))
end

local function newest()
    return redis.call('HGET', KEYS[2], 'next') or '0'
end
