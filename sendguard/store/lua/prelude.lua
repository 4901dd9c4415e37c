-- What every script shares: the clock, the codecs of the records, rolling windows, token buckets, and the index of lines.
-- It is put in front of each script. Times are microseconds since the epoch, as whole numbers.
--
-- KEYS (all scripts): 1 lines (hash: number -> record); 2-13 the index: four sorted sets for each of three line types
--   (HEALTHY, AT_RISK, CRITICAL: score = when the line may next start a conversation, or was last used if it may now;
--   OUT: FLAGGED and paused lines, score = gravity); 14 overrides (hash); 15 meta (hash). A script's own keys follow.
-- ARGV (all scripts): 1-6 interval and tolerance of the buckets HEALTHY, AT_RISK, CRITICAL (interval 0: unpaced);
--   7-12 limit and window of daily_volume, new_conversations, pair; 13 tiers that may start conversations, best first;
--   14 on_flagged; 15 '1' if the policy has overrides ('2': a dry run's, not in the store); 16 cool_down; 17 now ('' for the server's clock).
--   A script's own arguments follow.

local NEVER = 9007199254740991
local call = redis.call

-- Lua's own tostring would round a time to 14 digits.
local function int(x) return string.format('%.0f', x) end

if ARGV[15] == '1' and call('EXISTS', KEYS[14]) == 0 then
  do return redis.error_reply('NOOVERRIDES the overrides of this policy are not in the store') end
end

local now
if ARGV[17] ~= '' then
  now = tonumber(ARGV[17])
else
  local time = call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Rolling windows ------------------------------------------------------------------------------------------------
-- A window is a string: start of the newest entry (6 bytes, ms), total (4 bytes), then entries, oldest first, each its
-- latest event (6 bytes, ms, rounded up) and its count (3 bytes). An entry leaves `per` after its latest event, so
-- counting together errs to the safe side. '' is empty.

local HEAD, ENTRY = 10, 9

local function pack6(ms)
  local hi = math.floor(ms / 16777216)
  local lo = ms - hi * 16777216
  return string.char(math.floor(hi / 65536), math.floor(hi / 256) % 256, hi % 256, math.floor(lo / 65536), math.floor(lo / 256) % 256, lo % 256)
end

local function pack_count(n) return string.char(math.floor(n / 65536), math.floor(n / 256) % 256, n % 256) end

local function pack_total(n) return string.char(math.floor(n / 16777216)) .. pack_count(n % 16777216) end

local function time_at(w, i)
  local a, b, c, d, e, f = w:byte(i, i + 5)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

local function count_at(w, i)
  local a, b, c = w:byte(i + 6, i + 8)
  return (a * 256 + b) * 256 + c
end

local function total_of(w)
  if w == '' then return 0 end
  local a, b, c, d = w:byte(7, 10)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function window_trim(w, per)
  local i, total = HEAD + 1, nil
  while i <= #w and time_at(w, i) * 1000 + per <= now do
    total = (total or total_of(w)) - count_at(w, i)
    i = i + ENTRY
  end
  if i == HEAD + 1 then return w end
  if i > #w then return '' end
  return w:sub(1, 6) .. pack_total(total) .. w:sub(i)
end

-- When the window next has room for one more: 0 or a past time if it has room now.
local function window_free_at(w, limit, per)
  local total = total_of(w)
  if total < limit then return 0 end
  local i = HEAD + 1
  while limit > 0 and i <= #w do
    total = total - count_at(w, i)
    if total < limit then return time_at(w, i) * 1000 + per end
    i = i + ENTRY
  end
  return NEVER
end

-- Count n events at a time. One that is older than the newest entry counts with that, which keeps the entries in order.
local function window_add(w, limit, per, at, n)
  w = window_trim(w, per)
  local ms = math.ceil(at / 1000)
  if w == '' then return pack6(ms) .. pack_total(n) .. pack6(ms) .. pack_count(n) end
  local last = #w - ENTRY + 1
  local first = time_at(w, 1)
  ms = math.max(ms, time_at(w, last))
  local grain = limit > 64 and math.floor(per / 64000) or 0
  local total = pack_total(total_of(w) + n)
  if ms - first <= grain then
    return w:sub(1, 6) .. total .. w:sub(HEAD + 1, last - 1) .. pack6(ms) .. pack_count(count_at(w, last) + n)
  end
  return pack6(ms) .. total .. w:sub(HEAD + 1) .. pack6(ms) .. pack_count(n)
end

-- Take back one event that was counted at a time, if it still counts.
local function window_remove(w, per, at)
  local ms, i = math.ceil(at / 1000), HEAD + 1
  if ms * 1000 + per <= now then return w end
  while i <= #w and time_at(w, i) < ms do i = i + ENTRY end
  if i > #w then return w end
  local n, rest = count_at(w, i) - 1, w:sub(i + ENTRY)
  if n == 0 and rest == '' and i == HEAD + 1 then return '' end
  local first = w:sub(1, 6)
  if n == 0 and rest == '' then first = w:sub(i - ENTRY, i - ENTRY + 5) end
  local entry = n > 0 and (w:sub(i, i + 5) .. pack_count(n)) or ''
  return first .. pack_total(total_of(w) - 1) .. w:sub(HEAD + 1, i - 1) .. entry .. rest
end

-- Lines ----------------------------------------------------------------------------------------------------------
-- A record: summary, what observations told, and what sends changed, behind '!'. The summary is 'y' if neither status,
-- assignment, pause nor cooling down is in the way ('n': look), the tier and the class; a send of a line that stands
-- reads no more than that. status and health are as the API spelt them, '' if it never said. paused: until when (NEVER:
-- until resumed). tat: the theoretical arrival time of the token bucket. changed: when the health last changed.
-- place: the index set that holds the line, 0 for none.

local TOLD = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'

-- Fills in what observations told when the first of it is asked for.
local unfold = { __index = function(line, name)
  setmetatable(line, nil)
  local status, status_at, health, health_at, assigned, assigned_at, kind, kind_at, paused, cooling, altered =
    line.told:match(TOLD)
  line.status, line.status_at, line.health, line.health_at = status, tonumber(status_at), health, tonumber(health_at)
  line.assigned, line.assigned_at, line.kind, line.kind_at = assigned == '1', tonumber(assigned_at), kind, tonumber(kind_at)
  line.paused, line.cooling, line.changed = tonumber(paused), tonumber(cooling), tonumber(altered)
  return rawget(line, name)
end }

local function read_line(number)
  local raw = call('HGET', KEYS[1], number)
  if not raw then return nil end
  local stands, tier, class, told, used, tat, place, split, windows =
    raw:match('^(.)(.)(.)!([^!]*)!(%d+)|(%d+)|(%d+)|(%d+)|(.*)$')
  split = tonumber(split)
  return setmetatable({
    number = number, stands = stands == 'y', tier = tonumber(tier), class = tonumber(class), told = told, own = false,
    used = tonumber(used), tat = tonumber(tat), place = tonumber(place),
    volume = windows:sub(1, split), starts = windows:sub(split + 1),
  }, unfold)
end

local function is_flagged(line) return line.status ~= '' and line.status ~= 'ACTIVE' end

-- 1 HEALTHY, 2 AT_RISK, 3 CRITICAL. A health not told is that of a line not yet scored; an unknown one counts as AT_RISK.
local function tier_of(health)
  if health == '' or health == 'HEALTHY' then return 1 end
  return health == 'CRITICAL' and 3 or 2
end

local STATUS, HEALTH = { [true] = 'FLAGGED', [false] = 'ACTIVE' }, { 'HEALTHY', 'AT_RISK', 'CRITICAL' }
local function status_name(line) return STATUS[not line.stands and is_flagged(line)] end

local FIELD = '([^|]*)|'

-- The value of the policy's argument i (1-12) for a line.
local function limit_of(line, i)
  if ARGV[15] ~= '0' then
    if not line.own then
      line.own = { (call('HGET', KEYS[14], line.number) or '||||||||||||'):match('^' .. string.rep(FIELD, 12)) }
    end
    if line.own[i] ~= '' then return tonumber(line.own[i]) end
  end
  return tonumber(ARGV[i])
end

local function bucket_of(line)
  local i = 2 * line.tier
  return limit_of(line, i - 1), limit_of(line, i)
end

-- When a line may next send, and what it waits for; a time not after now and nil if it may send now. The time at which
-- everything has cleared decides; where nothing clears by waiting, the gravest comes first.
local function ready_at(line, starts)
  local at, why = now, nil
  if not line.stands then
    if not line.assigned then return NEVER, 'unknown_line' end
    if is_flagged(line) then return NEVER, 'flagged' end
    if line.paused > at then at, why = line.paused, 'paused' end
    if line.cooling > at then at, why = line.cooling, 'cooling_down' end
  end
  local interval, tolerance = bucket_of(line)
  if interval >= NEVER then
    if at < NEVER then at, why = NEVER, 'throttled' end
  elseif interval > 0 and line.tat - tolerance > at then
    at, why = line.tat - tolerance, 'throttled'
  end
  local free = window_free_at(line.volume, limit_of(line, 7), limit_of(line, 8))
  if free > at then at, why = free, 'daily_volume' end
  if starts then
    free = window_free_at(line.starts, limit_of(line, 9), limit_of(line, 10))
    if free > at then at, why = free, 'new_conversations' end
  end
  return at, why
end

local NOW = int(now)
local function moment(at) return at == now and NOW or int(at) end

-- Write a line's record, and put it where `choose` finds it. The only place that writes either.
local function save(line)
  local place, score = 0, nil
  if line.stands then
    place = 3 * (line.tier - 1) + line.class
  elseif line.assigned then
    local out = is_flagged(line) and 1 or line.paused >= NEVER and 2
    place, score = out and 9 + line.class or 3 * (line.tier - 1) + line.class, out
  end
  if line.place ~= place then
    if line.place > 0 then call('ZREM', KEYS[1 + line.place], line.number) end
    line.place = place
  end
  local used = moment(line.used)
  if place > 0 then
    local at, why = score, nil
    if not score then at, why = ready_at(line, true) end
    score = score or why and math.max(at, line.used)
    call('ZADD', KEYS[1 + place], score and int(score) or used, line.number)
  end
  call('HSET', KEYS[1], line.number, (line.stands and 'y' or 'n') .. line.tier .. line.class .. '!' .. line.told .. '!'
    .. used .. '|' .. moment(line.tat) .. '|' .. place .. '|' .. #line.volume .. '|' .. line.volume .. line.starts)
end

-- Take what one send at a time costs the line; the cost in the bucket is returned, 0 where the line is unpaced. `used`
-- only grows, so that equal clocks still take turns.
local function spend(line, at, starts)
  local cost = bucket_of(line)
  if cost > 0 then line.tat = math.max(line.tat, at) + cost end
  line.used = math.max(now, line.used + 1)
  line.volume = window_add(line.volume, limit_of(line, 7), limit_of(line, 8), at, 1)
  if starts then line.starts = window_add(line.starts, limit_of(line, 9), limit_of(line, 10), at, 1) end
  return cost
end

-- Give back what one send took. A token comes back only if it was the last that the bucket gave: after another, the
-- times at which that one was admitted stand on it.
local function unspend(line, at, starts, tat, cost)
  if tat == line.tat then line.tat = line.tat - cost end
  line.volume = window_remove(line.volume, limit_of(line, 8), at)
  if starts then line.starts = window_remove(line.starts, limit_of(line, 10), at) end
end

-- Recipients -----------------------------------------------------------------------------------------------------
-- A record: consent, then for each line that a conversation lives on, the current one first, its number and the window
-- of the pair. consent: 0 nothing heard; positive, when they last wrote; negative, when they opted out. Of more than
-- eight, only those are kept whose windows still count something.

local MAX_CONVERSATIONS = 8

local function read_recipient(key)
  local raw = call('GET', key)
  local lines, windows = {}, {}
  if not raw then return { consent = 0, lines = lines, windows = windows } end
  local consent, at = raw:match('^([^|]*)|()')
  while at <= #raw do
    local number, length, from = raw:match('^([^:]*):(%d+):()', at)
    at = from + length
    lines[#lines + 1], windows[number] = number, raw:sub(from, at - 1)
  end
  return { consent = tonumber(consent) or 0, lines = lines, windows = windows }
end

local function write_recipient(key, recipient)
  local text = recipient.consent == 0 and '|' or int(recipient.consent) .. '|'
  for i, number in ipairs(recipient.lines) do
    local window = recipient.windows[number]
    if i > MAX_CONVERSATIONS then window = window_trim(window, limit_of({ number = number }, 12)) end
    if i <= MAX_CONVERSATIONS or window ~= '' then text = text .. number .. ':' .. #window .. ':' .. window end
  end
  call('SET', key, text)
end

-- Note that a conversation lives on a line; `current` makes it the one that later sends go to.
local function add_conversation(recipient, number, current)
  local lines = recipient.lines
  if not recipient.windows[number] then
    recipient.windows[number] = ''
    table.insert(lines, math.min(#lines + 1, 2), number)
  end
  if current and lines[1] ~= number then
    for i = 2, #lines do
      if lines[i] == number then table.remove(lines, i) break end
    end
    table.insert(lines, 1, number)
  end
end

local function remove_conversation(recipient, number)
  for i, each in ipairs(recipient.lines) do
    if each == number then table.remove(recipient.lines, i) break end
  end
  recipient.windows[number] = nil
end
