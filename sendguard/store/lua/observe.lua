-- Apply what was learnt of lines: from a webhook, a poll, an outcome or an operator. Newer knowledge wins field by field;
-- at equal times the graver value does (law 2).
--
-- KEYS: 6 event (used if ARGV 3 is '1'); 7 chat (used where a number is '@chat'); 8 transitions (stream);
--   9 revocations (stream); 10 meta (hash).
-- ARGV: 3 deduplicate; 4 '1' if a line that is not known is an error; 5 source and 6 event id, as transitions tell
--   them; 7 how long a line that becomes known rests, as it may be one that was forgotten; 8 how long loans last, '0'
--   where there are none; then for each line: number (or '@chat', the line that the chat lives on), at ('' for now),
--   status, health, line type, assigned ('1' or '0'), paused until ('0' resumes), cooling down until ('-' for at +
--   cool_down). '' is a field not carried.
-- Reply: changes, each number|field|old|new|at, and for each line of which something was called back, now or by an earlier
--   observation, !number|how long it can still be used at the most; or the error UNKNOWNLINE.
-- Cost: 2 to 4 commands a line, and one XADD for each change.

local FIELDS = 8

local function number_at(i)
  if ARGV[i] ~= '@chat' then return ARGV[i] end
  local number = match(call('GET', KEYS[7]) or '', '^([^|]*)')
  return number ~= '' and call('HEXISTS', KEYS[1], number) == 1 and number
end

local function apply(i, number, line)
  local at = observed(ARGV[i + 1])
  if not line and ARGV[i + 7] ~= '' then return end  -- what is learnt by sending makes no line known
  if ARGV[4] == '1' and not (line and line.assigned) then return line, 'UNKNOWNLINE ' .. number end
  local rest = not line and tonumber(ARGV[7]) or 0
  line = line or fresh(number)
  -- Who speaks of now outranks what was dated ahead of our clock.
  local undated = ARGV[i + 1] == ''
  set_status(line, ARGV[i + 2], undated and line.status_at > at and line.status_at + 1 or at)
  set_health(line, ARGV[i + 3], undated and line.health_at > at and line.health_at + 1 or at)
  set_kind(line, ARGV[i + 4], at)
  set_assigned(line, ARGV[i + 5], at)
  if ARGV[i + 6] ~= '' then
    set_until(line, 'paused', 'paused_until', tonumber(ARGV[i + 6]))
    if ARGV[i + 6] == '0' then set_until(line, 'cooling', 'cooling_down_until', 0) end
  end
  local cool = ARGV[i + 7]
  if cool ~= '' then
    local until_at = cool == '-' and at + cool_down or tonumber(cool)
    if until_at > max(now, line.cooling) then set_until(line, 'cooling', 'cooling_down_until', until_at) end
  end
  if rest > 0 then set_until(line, 'cooling', 'cooling_down_until', now + rest) end
  if line.paused < now then line.paused = 0 end
  if line.cooling < now then line.cooling = 0 end
  save(fold(line, KEYS[9], tonumber(ARGV[8])))
  return line
end

hear()
local news = ARGV[3] ~= '1' or first_time(KEYS[6], KEYS[10])
for i = 9, #ARGV, FIELDS do
  local number = number_at(i)
  local line, problem = number and read_line(number), nil
  if news and number then line, problem = apply(i, number, line) end
  if problem then return redis.error_reply(problem) end
  wait_for(line)
end
return told(KEYS[8], ARGV[5], ARGV[6])
