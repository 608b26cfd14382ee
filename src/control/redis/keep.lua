-- Keeps a stream the one that speaks for its node, and answers the letters that it has missed.
--
-- KEYS:
--  1 nodes, 2 mail  (see lib.lua)
--
-- ARGV:
--  1 [bytes]  the node's field
--  2 [bytes]  replica
--  3 [bytes]  stream
--  4 [int]    milliseconds for which it speaks from now on
--  5 [bytes]  the node's profile
--  6 [int]    milliseconds after which an unsettled letter is given up
--  7 [int]    calls that the node carries
--  8 [int]    the newest letter that the stream was given
--
-- Result: taken, if another stream speaks for the node; else as of attach.lua, those letters alone that are newer
keys_are(2)
local alive_ms, grace_ms, load, last = integer(4), integer(6), integer(7), integer(8)
local node = speaker(ARGV[1])
if node and (node.replica ~= ARGV[2] or node.stream ~= ARGV[3]) then return 'taken' end

-- From here on it writes.
seat(ARGV[1], ARGV[2], ARGV[3], alive_ms, load, ARGV[5])
local answer = { newest() }
each_letter(function(number, sent_ms, _, letter)
    if tonumber(number) > last then
        answer[#answer + 1] = number
        answer[#answer + 1] = letter
    elseif now_ms - sent_ms > grace_ms then
        redis.call('HDEL', KEYS[2], number)
    end
end)
return answer
