-- Some of what the database should have had by now: whoever was to write it may be dead.
--
-- KEYS:
--  1 unwritten  (see lib.lua)
--
-- ARGV:
--  1 [string]  cursor, 0 to begin with
--  2 [number]  age_ms: what was kept more lately is passed over
--  3 [number]  about how many to look at, 1 to 1,000
--
-- Result: {cursor, field, entry, field, entry, …}; cursor 0: that was the last of it.
keys_are(1)
local before = now - integer(ARGV[2], 0, EXACT_MAX, 'age_ms')
local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', integer(ARGV[3], 1, 1000, 'count'))
local answer = {scanned[1]}
local pairs_found = scanned[2]
for i = 1, #pairs_found, 2 do
    if struct.unpack('>I8', pairs_found[i + 1], 2) <= before then
        answer[#answer + 1] = pairs_found[i]
        answer[#answer + 1] = pairs_found[i + 1]
    end
end
return answer
