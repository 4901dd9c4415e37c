-- Tell how lines stand.
--
-- ARGV: 3... the numbers asked for; none for all of the pool.
-- Reply: for each assigned line: number|status|health|raw status|raw health|line type|status at|health at|paused until|
--   cooling down until|last used|next send at|daily volume|new conversations|tokens ('' if unpaced).
-- Cost: one HGET a line.

local numbers = {}
for i = 3, #ARGV do numbers[#numbers + 1] = ARGV[i] end
if #numbers == 0 then numbers = call('HKEYS', KEYS[1]) end

-- The whole tokens that a line's bucket holds now: so many sends may go before it throttles. Slots that waiters hold are
-- taken already.
local function tokens_of(line)
  local interval, tolerance = bucket_of(line)
  if interval == 0 then return '' end
  if interval >= NEVER then return '0' end
  return int(max(0, floor((now + tolerance - max(now + aside(line) * interval, line.tat)) / interval) + 1))
end

local rows = {}
for _, number in ipairs(numbers) do
  local line = read_line(number)
  if line and line.assigned then
    local at, why = ready_at(line, false)
    rows[#rows + 1] = table.concat({
      number, status_name(line), HEALTH[line.tier], line.status, line.health, line.kind, int(line.status_at),
      int(line.health_at), line.paused > now and int(line.paused) or '', line.cooling > now and int(line.cooling) or '',
      line.used > 0 and int(line.used) or '', why and int(at) or '',
      total_of(window_trim(line.volume, limits_of(line)[8])), total_of(window_trim(line.starts, limits_of(line)[10])),
      tokens_of(line),
    }, '|')
  end
end
return rows
