-- Takes requests out of a subject's bucket: as many as are wanted, or as many as are there.
--
-- The same as `Bucket::take` in src/domain/rate.rs, on the clock that all replicas share.
--
-- KEYS:
--  1 [string]  bucket: the moment, in microseconds, at which it is full again. Absent: it is full, and so the key
--              ends with that moment
--
-- ARGV:
--  1 [int]  limit: requests in a window
--  2 [int]  window in microseconds
--  3 [int]  burst: requests that a full bucket holds
--  4 [int]  want: at most the burst
--  5 [int]  chunk: after a denial, how many must be there before it is worth while to ask again
--
-- Result: {granted, 0}, or {0, microseconds until it is worth while to ask again}

if #KEYS ~= 1 then
    error('bad number of keys')
end

local function integer(index, most)
    local value = tonumber(ARGV[index])
    if not value or value ~= math.floor(value) or value < 1 or value > most then
        error('bad argument ' .. index)
    end
    return value
end

local limit = integer(1, 1000000)
local window = integer(2, 3600000000)
local burst = integer(3, limit)
local want = integer(4, burst)
local chunk = integer(5, burst)

-- Rounded up: a limit is never exceeded by rounding. All of it is far below 2^53.
local function cost(requests)
    return math.ceil(requests * window / limit)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local room = cost(burst)
local stored = tonumber(redis.call('GET', KEYS[1]) or now)
local full_at = math.max(stored, now)
if stored > now + room then
    -- Emptier than empty: the clock was set back, which must refuse nobody.
    full_at = now
end
local free = now + room - full_at
local granted = math.min(want, math.floor(free * limit / window))

-- From here on it writes.
full_at = full_at + cost(granted)
if granted > 0 or full_at < stored then
    redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
end
if granted > 0 then
    return {granted, 0}
end
return {0, math.max(cost(math.min(want, chunk)) - free, 1)}
