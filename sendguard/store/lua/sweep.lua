-- Release the lines that a poll's list no longer holds. A list that lost all or more than half of the lines is not
-- believed at once: only lines that a second poll misses too are released.
--
-- KEYS: 6 meta (hash).
-- ARGV: 3 when the poll's request was sent; 4... the numbers that it listed.
-- Reply: the numbers to release; and those held back until another poll misses them too.
-- Cost: one ZRANGE for each index set, one HGET for each line missed.

local at, listed, missed, known = tonumber(ARGV[3]), {}, {}, 0
for i = 4, #ARGV do listed[ARGV[i]] = true end
for place = 1, 3 do
  for _, number in ipairs(call('ZRANGE', KEYS[1 + place], '0', '-1')) do
    known = known + 1
    if not listed[number] and read_line(number).assigned_at < at then missed[#missed + 1] = number end
  end
end

local suspects = {}
for number in gmatch(call('HGET', KEYS[6], 'suspects') or '', '[^|]+') do suspects[number] = true end

local release, held = {}, {}
local mass = #missed > 0 and (#missed * 2 > known or #ARGV < 4)
for _, number in ipairs(missed) do
  local list = (mass and not suspects[number]) and held or release
  list[#list + 1] = number
end
if #held > 0 then
  call('HSET', KEYS[6], 'suspects', table.concat(held, '|'))
else
  call('HDEL', KEYS[6], 'suspects')
end
call('HSET', KEYS[6], 'polled_at', int(at))
return { release, held }
