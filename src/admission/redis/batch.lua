-- One call of a script for each of those who ask at the same time: grants and releases of one tenant go to Redis
-- together, so that what a call costs by itself (its parsing, its locals, its first look) is paid once.
--
-- KEYS:
--  1 calls  2 leases  3 tenant_limits  4 replicas  5 agents  6 unwritten, and for each agent that is named
--    inbound, outbound, agent_limits, queue_in, queue_out  (see lib.lua and queue.lua)
--
-- ARGV:
--  1 [number]  how many arguments a part has
--  then of each part
--  * [number]  the place of its agent, the first one's is 1
--  * its own arguments, see the part's script, whose KEYS are put together here
--
-- Result: of each part {1, result}, or {0, why} if its script refused its arguments; the others are none the worse.
local all, given = KEYS, ARGV
local KEYS, ARGV = all, given -- of the part that is run

--@ queue.lua

local function part()
--@ the script of a part
end

local arguments = integer(given[1], 1, 100, 'number of arguments')
local answers = {}
for first = 2, #given, arguments + 1 do
    local last = 6 + 5 * integer(given[first], 1, EXACT_MAX, 'place')
    KEYS = {all[1], all[2], all[3], all[last - 4], all[last - 3], all[last - 2], all[last - 1], all[last],
        all[4], all[5], all[6]}
    ARGV = {unpack(given, first + 1, first + arguments)}
    begin_part()
    local done, answer = pcall(part)
    if not done then
        answer = type(answer) == 'table' and answer.err or tostring(answer)
    end
    answers[#answers + 1] = {done and 1 or 0, answer}
end
return answers
