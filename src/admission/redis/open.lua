-- Opens a tenant's books: from now on its leases are counted.
--
-- KEYS:
--  1 tenant_limits  2 calls  3 leases  (see lib.lua)
--
-- ARGV:
--  1 [number]  recovery_ms: 0, or for how long leases are taken in again and no new call is admitted
--  2 [string]  `seen` where the caller itself has seen what is gone, else `told`
--  3 [string]  server
--
-- Result: {'opened'}, or {'open'} where the books were open already and nothing changed.
--
-- Of replicas that open at once the first decides; but one that has seen the tenant's books before knows better than
-- one that opened them as fresh a moment ago. Where the clock was set, which leases are live cannot be known: they are as
-- lost as if the data were gone, and their holders bring them back.
keys_are(3)
local recovery = integer(ARGV[1], 0, TTL_MAX_MS, 'recovery_ms')
if ARGV[2] ~= 'seen' and ARGV[2] ~= 'told' then error('bad witness') end

local server = witness_of(ARGV[3])
local books, stepped = books_of(KEYS[1], ARGV[3])
if books and not (ARGV[2] == 'seen' and recovery > 0 and books.recovering == 0 and now < books.opened + MOMENT_MS) then
    return {'open'}
end

-- From here on it writes.
if stepped then
    redis.call('UNLINK', KEYS[2], KEYS[3])
end
redis.call('HSET', KEYS[1], 'open', now, 'recovering', recovery > 0 and now + recovery or 0, 'server', server)
keep(KEYS[1])
return {'opened'}
