-- The tenant's connected nodes.
--
-- KEYS:
--  1 nodes  (see lib.lua)
--
-- ARGV: none
--
-- Result: {field, replica, load, profile, field, …}
keys_are(1)
local answer = {}
local all = redis.call('HGETALL', KEYS[1])
for index = 1, #all, 2 do
    local node = cjson.decode(all[index + 1])
    if node.until_ms >= now_ms then
        for _, part in ipairs({ all[index], node.replica, tostring(node.load), node.profile }) do
            answer[#answer + 1] = part
        end
    end
end
return answer
