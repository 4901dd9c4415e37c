-- Tell of lines again, after the store forgot them or what was last told of them. What it knows better stays (law 2).
--
-- KEYS: 6 transitions (stream); 7 revocations (stream).
-- ARGV: 3 source; 4 how long a line that is not known rests, so that whoever knows more of it can say so before anything
--   is sent on it; 5 how long loans last, '0' where there are none; then for each line: number, status, status at, health,
--   health at, line type, paused until, cooling down until, and how much daily_volume and new_conversations counted. The
--   last four hold for a line that is not known only: nobody can tell what became of them otherwise.
-- Reply: changes, as observe.lua.
-- Cost: 2 to 4 commands a line, and one XADD for each change.

local FIELDS = 10

hear()
for i = 6, #ARGV, FIELDS do
  local line = read_line(ARGV[i])
  local known = line ~= nil
  line = line or fresh(ARGV[i])
  set_status(line, ARGV[i + 1], observed(ARGV[i + 2]))
  set_health(line, ARGV[i + 3], observed(ARGV[i + 4]))
  if not known then
    set_kind(line, ARGV[i + 5], 0)
    set_assigned(line, '1', 0)
    set_until(line, 'paused', 'paused_until', tonumber(ARGV[i + 6]))
    local rest = ARGV[4] == '0' and 0 or now + tonumber(ARGV[4])
    set_until(line, 'cooling', 'cooling_down_until', max(rest, tonumber(ARGV[i + 7])))
    local volume, starts = tonumber(ARGV[i + 8]), tonumber(ARGV[i + 9])
    if volume > 0 then line.volume = window_add('', limits_of(line)[7], limits_of(line)[8], now, volume) end
    if starts > 0 then line.starts = window_add('', limits_of(line)[9], limits_of(line)[10], now, starts) end
  end
  save(fold(line, KEYS[7], tonumber(ARGV[5])))
  wait_for(line)
end
return told(KEYS[6], ARGV[3], '')
