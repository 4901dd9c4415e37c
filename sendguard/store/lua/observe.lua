-- Apply what was learnt of lines: from a webhook, a poll, an outcome or an operator. Newer knowledge wins field by field;
-- at equal times the graver value does (law 2).
--
-- KEYS: 16 event (used if ARGV 18 is '1'); 17 chat (used where a number is '@chat'); 18 transitions (stream).
-- ARGV: 18 deduplicate; 19 '1' if a line that is not known is an error; 20 source and 21 event id, as transitions tell
--   them; then for each line: number (or '@chat', the line that the chat lives on), at ('' for now), status, health, line type, assigned ('1' or '0'), paused until ('0'
--   resumes), cooling down until ('-' for at + cool_down). '' is a field not carried.
-- Reply: changes, each number|field|old|new|at; or the error UNKNOWNLINE.
-- Cost: 2 to 4 commands a line, and one XADD for each change.

local FIELDS = 8

local function fresh(number)
  return {
    number = number, status = '', status_at = -1, health = '', health_at = -1, assigned = true, assigned_at = -1,
    kind = '', kind_at = -1, paused = 0, cooling = 0, used = 0, tat = 0, changed = 0, place = 0, volume = '', starts = '',
    stands = true, tier = 1, class = 1, own = false, known = false,
  }
end

-- What `read_line` of the prelude takes apart, and the summary that sends go by.
local function fold(line)
  line.stands = line.assigned and not is_flagged(line) and line.paused == 0 and line.cooling == 0
  line.tier = tier_of(line.health)
  line.class = (line.kind == '' or line.kind == 'iMessage') and 1 or line.kind == 'RCS' and 2 or 3
  line.told = table.concat({
    line.status, int(line.status_at), line.health, int(line.health_at), line.assigned and '1' or '0',
    int(line.assigned_at), line.kind, int(line.kind_at), int(line.paused), int(line.cooling), int(line.changed),
  }, '|')
  return line
end

local function newer(at, known_at, graver) return at > known_at or (at == known_at and graver) end

local function set_status(line, status, at)
  local grave = status ~= 'ACTIVE'
  if status == '' or not newer(at, line.status_at, grave and not is_flagged(line)) then return end
  line.status_at = at
  if status ~= line.status then
    changed(line, 'status', line.status, status, at)
    line.status = status
  end
end

-- A change of pace voids the slots that waiters hold: the bucket is at most empty now, not lent ahead.
local function set_health(line, health, at)
  local before, tier = line.health, line.tier
  local interval, tolerance = bucket_of(line)
  local graver = tier_of(health) > tier
  if health == '' or not newer(at, line.health_at, graver) then return end
  line.health_at, line.health = at, health
  if health ~= before then changed(line, 'health', before, health, at) end
  if tier_of(health) ~= tier then
    line.changed = now
    if interval > 0 and interval < NEVER then line.tat = math.min(line.tat, now + tolerance + interval) end
  end
end

local function set_assigned(line, assigned, at)
  if assigned == '' or not newer(at, line.assigned_at, assigned == '0' and line.assigned) then return end
  line.assigned_at = at
  if line.assigned ~= (assigned == '1') or line.known == false then
    changed(line, 'assigned', line.known == false and '' or line.assigned and 'true' or 'false',
      assigned == '1' and 'true' or 'false', at)
    line.assigned = assigned == '1'
  end
end

local function set_kind(line, kind, at)
  if kind == '' or at <= line.kind_at then return end
  line.kind_at = at
  if kind ~= line.kind then
    changed(line, 'line_type', line.kind, kind, at)
    line.kind = kind
  end
end

local function set_until(line, field, name, until_at)
  if line[field] ~= until_at then
    changed(line, name, line[field] > now and int(line[field]) or '', until_at > now and int(until_at) or '', now)
    line[field] = until_at
  end
end

local function apply(i)
  local number, at = ARGV[i], observed(ARGV[i + 1])
  if number == '@chat' then
    number = (call('GET', KEYS[17]) or ''):match('^([^|]*)')
    if number == '' or not call('HEXISTS', KEYS[1], number) then return end
  end
  local line = read_line(number)
  if not line and ARGV[i + 7] ~= '' then return end  -- what is learnt by sending makes no line known
  if ARGV[19] == '1' and not (line and line.assigned) then return 'UNKNOWNLINE ' .. number end
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
    local until_at = cool == '-' and at + tonumber(ARGV[16]) or tonumber(cool)
    if until_at > math.max(now, line.cooling) then set_until(line, 'cooling', 'cooling_down_until', until_at) end
  end
  if line.paused < now then line.paused = 0 end
  if line.cooling < now then line.cooling = 0 end
  save(fold(line))
end

if ARGV[18] == '1' and not first_time(KEYS[16]) then return {} end
for i = 22, #ARGV, FIELDS do
  local problem = apply(i)
  if problem then return redis.error_reply(problem) end
end
for _, change in ipairs(changes) do
  call('XADD', KEYS[18], 'MAXLEN', '~', '10000', '*', 'change', change, 'source', ARGV[20], 'event', ARGV[21])
end
return changes
