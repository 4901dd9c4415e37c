-- Take the first member of a queue that is due, for a while: whoever takes it removes it when it is done with it, and
-- where that never comes, another takes it after that while.
--
-- KEYS: 6 queue (sorted set, score: when it is due). ARGV: 3 for how long.
-- Reply: wait|now|member: wait is how long until the first is due, '' if there is none; member '' if none is due.
-- Cost: 1 or 2 commands.

local first = call('ZRANGE', KEYS[6], 0, 0)
if #first == 0 then return '|' .. int(now) .. '|' end
local due = tonumber(call('ZSCORE', KEYS[6], first[1]))
if due > now then return int(due - now) .. '|' .. int(now) .. '|' end
call('ZADD', KEYS[6], int(now + tonumber(ARGV[3])), first[1])
return '0|' .. int(now) .. '|' .. first[1]
