-- Makes a stream the one that speaks for its node, tells the one before it, and answers what is not settled.
--
-- KEYS:
--  1 nodes, 2 mail  (see lib.lua)
--
-- ARGV:
--  1 [bytes]  the node's field
--  2 [bytes]  replica
--  3 [bytes]  stream, which the replica gives to no other
--  4 [int]    milliseconds for which it speaks
--  5 [bytes]  the node's profile
--  6 [int]    milliseconds for which an unsettled letter is worth giving
--  7 [int]    how often one is given
--
-- Result: {number of the newest letter, number, letter, number, letter, …} of those that are given again, in no order
keys_are(2)
local alive_ms, grace_ms, most = integer(4), integer(6), integer(7)
local former = speaker(ARGV[1])

-- From here on it writes.
seat(ARGV[1], ARGV[2], ARGV[3], alive_ms, 0, ARGV[5])
if former and (former.replica ~= ARGV[2] or former.stream ~= ARGV[3]) then
    redis.call('PUBLISH', 'vg:replica:' .. former.replica, 'T' .. former.stream)
end
tell_all()
local answer = { newest() }
each_letter(function(number, sent_ms, given, letter)
    if given >= most or now_ms - sent_ms > grace_ms then
        redis.call('HDEL', KEYS[2], number)
    else
        redis.call('HSET', KEYS[2], number, string.format('%.0f|%.0f|%s', sent_ms, given + 1, letter))
        answer[#answer + 1] = number
        answer[#answer + 1] = letter
    end
end)
return answer
