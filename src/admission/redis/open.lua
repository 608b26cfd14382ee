-- Opens a tenant's books: from now on its leases are counted.
--
-- KEYS:
--  1 tenant_limits  (see lib.lua)
--
-- ARGV:
--  1 [number]  recovery_ms: 0, or for how long leases are taken in again and no new call is admitted
--  2 [string]  `seen` where the caller itself has seen what is gone, else `told`
--  3 [string]  server
--
-- Result: {'opened'}, or {'open'} where the books were open already and nothing changed.
--
-- Of replicas that open at once the first decides; but one that has seen the tenant's books before knows better than
-- one that opened them as fresh a moment ago.
keys_are(1)
local recovery = integer(ARGV[1], 0, TTL_MAX_MS, 'recovery_ms')
if ARGV[2] ~= 'seen' and ARGV[2] ~= 'told' then error('bad witness') end

local books = books_of(KEYS[1], '')
if books and not (ARGV[2] == 'seen' and recovery > 0 and books.recovering == 0 and now < books.opened + MOMENT_MS) then
    return {'open'}
end

-- From here on it writes.
redis.call('HSET', KEYS[1], 'open', now, 'recovering', recovery > 0 and now + recovery or 0, 'server', ARGV[3])
keep(KEYS[1])
return {'opened'}
