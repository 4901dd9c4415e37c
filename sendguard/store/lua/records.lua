-- Lines: their records, token buckets, and the index that `choose` looks them up in.
--
-- A record, in bytes: 1 a letter, 'y' if neither status, assignment, pause nor cooling down is in the way ('n': look), a
-- capital where processes hold some of its budget; 2 tier; 3 class (of its type); 4 place (the index set that holds it, 0
-- for none); 5-11 when it was last used; 12-13 and 14-15 how long the windows of daily_volume and new_conversations are;
-- 16-22 the theoretical arrival time of its token bucket. Then what is lent and a '!', where there is any; both windows; and
-- what observations told, which a send of a line that stands does not read. Of that, status and health are as the API spelt
-- them, '' if it never said; paused: until when (NEVER: until resumed); changed: when the health last changed.

-- Fills in what observations told when the first of it is asked for.
local unfold = { __index = function(line, name)
  setmetatable(line, nil)
  local FIELDS = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'
  local status, status_at, health, health_at, assigned, assigned_at, kind, kind_at, paused, cooling, altered =
    match(line.told, FIELDS)
  line.status, line.status_at, line.health, line.health_at = status, tonumber(status_at), health, tonumber(health_at)
  line.assigned, line.assigned_at, line.kind, line.kind_at = assigned == '1', tonumber(assigned_at), kind, tonumber(kind_at)
  line.paused, line.cooling, line.changed = tonumber(paused), tonumber(cooling), tonumber(altered)
  return rawget(line, name)
end }

local LETTERS = { [121] = { true, false }, [89] = { true, true }, [110] = { false, false }, [78] = { false, true } }

local function read_line(number)
  local raw = call('HGET', KEYS[1], number)
  if not raw then return nil end
  local letter, tier, class, place, a, b, c, d, e, f, g, v, w, x, y, h, i, j, k, l, m, n = byte(raw, 1, 22)
  local lent, at = '', 23
  local letters = LETTERS[letter]
  if letters[2] then
    at = find(raw, '!', 23, true) + 1
    lent = sub(raw, 23, at - 2)
  end
  local starts = at + v * 256 + w
  local told = starts + x * 256 + y
  return setmetatable({
    number = number, stands = letters[1], tier = tier, class = class, place = place,
    lent = lent, loans = false, limits = false,
    used = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g,
    tat = (((((h * 256 + i) * 256 + j) * 256 + k) * 256 + l) * 256 + m) * 256 + n,
    volume = sub(raw, at, starts - 1), starts = sub(raw, starts, told - 1), told = sub(raw, told),
  }, unfold)
end

local function is_flagged(line) return line.status ~= '' and line.status ~= 'ACTIVE' end

-- 1 HEALTHY, 2 AT_RISK, 3 CRITICAL. A health not told is that of a line not yet scored; an unknown one counts as AT_RISK.
local function tier_of(health)
  if health == '' or health == 'HEALTHY' then return 1 end
  return health == 'CRITICAL' and 3 or 2
end

local HEALTH = { 'HEALTHY', 'AT_RISK', 'CRITICAL' }
local function status_name(line) return not line.stands and is_flagged(line) and 'FLAGGED' or 'ACTIVE' end

-- The limits that hold for a line, by the number of the policy's field (1-12).
local function limits_of(line)
  if line.limits then return line.limits end
  local limits = policy
  if overridden == '1' then
    local found = call('HMGET', KEYS[5], line.number, '')  -- the second tells that the policy's overrides are there
    if not found[2] then error(MISSING) end
    if found[1] then
      if found[1] ~= own_text then
        local own = {}
        for field in gmatch(found[1], FIELD) do own[#own + 1] = tonumber(field) or policy[#own + 1] end
        own_limits, own_text = own, found[1]
      end
      limits = own_limits
    end
  end
  line.limits = limits
  return limits
end

local function bucket_of(line)
  local limits, i = limits_of(line), 2 * line.tier
  return limits[i - 1], limits[i]
end

-- What is lent of a line is text, one entry for each process: process,sends,tokens,since,until,revoked,turn; and so on.
-- sends and tokens: how many it may hold until then, the tokens since then. revoked: 1 from when they may not be used any
-- more until it has said that it holds none. turn: of that process, when it last asked for some; it holds none of those
-- for which it asked before another turn, once it has said so. An entry is kept for a while after its time, so that what
-- is unused can go back.
local KEPT = 10000000

-- The entries as tables. While tokens are out the bucket holds that many fewer, so that they may be used at any time, on
-- top of what it gives; what it filled up to by the end of an entry is no more than that.
local function loans_of(line)
  if line.loans then return line.loans end
  local all, ended = {}, {}
  for process, sends, tokens, since, ends, revoked, turn in
    gmatch(line.lent, '(%x+),(%d+),(%d+),(%d+),(%d+),([01]),(%d+);')
  do
    all[#all + 1] = { process = process, sends = tonumber(sends), tokens = tonumber(tokens), since = tonumber(since),
      ends = tonumber(ends), revoked = revoked == '1', turn = tonumber(turn) }
    if all[#all].ends <= now then ended[#ended + 1] = all[#all] end
  end
  table.sort(ended, function(a, b) return a.ends < b.ends end)
  local interval = bucket_of(line)
  for _, loan in ipairs(ended) do
    local tokens = 0
    for _, other in ipairs(all) do tokens = tokens + other.tokens end
    if interval > 0 and interval < NEVER and loan.tokens > 0 then
      line.tat = max(line.tat, loan.ends + tokens * interval)
    end
    loan.tokens = 0
  end
  line.loans = {}
  for _, loan in ipairs(all) do
    if loan.ends + KEPT > now then table.insert(line.loans, loan) end
  end
  return line.loans
end

-- The tokens of a line's bucket that are out, and when the last of them is back at the latest.
local function aside(line)
  local tokens, last = 0, 0
  if line.lent ~= '' or line.loans then
    for _, loan in ipairs(loans_of(line)) do
      if loan.tokens > 0 then tokens, last = tokens + loan.tokens, max(last, loan.ends) end
    end
  end
  return tokens, last
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
  local limits, bucket = limits_of(line), 2 * line.tier
  local interval, tolerance = limits[bucket - 1], limits[bucket]
  if interval >= NEVER then
    if at < NEVER then at, why = NEVER, 'throttled' end
  elseif interval > 0 then
    local tokens, last = aside(line)  -- which may change `tat`
    local free = line.tat - tolerance
    if tokens * interval > tolerance then free = max(free, last) end
    if free > at then at, why = free, 'throttled' end
  end
  local free = window_free_at(line.volume, limits[7], limits[8])
  if free > at then at, why = free, 'daily_volume' end
  if starts then
    free = window_free_at(line.starts, limits[9], limits[10])
    if free > at then at, why = free, 'new_conversations' end
  end
  return at, why
end

-- The 7 bytes of a time.
local function bytes_of(n)
  local g = n % 256
  n = (n - g) / 256
  local f = n % 256
  n = (n - f) / 256
  local e = n % 256
  n = (n - e) / 256
  local d = n % 256
  n = (n - d) / 256
  local c = n % 256
  n = (n - c) / 256
  local b = n % 256
  n = (n - b) / 256
  return n < 255 and n or 255, b, c, d, e, f, g
end

-- The index: of each line type a sorted set of lines. A score is where its slot begins, of which there is one for each
-- tier and one for the lines that are OUT, and a time: when the line may next start a conversation, or was last used if it
-- may now. For OUT it is the gravity: 1 FLAGGED, 2 paused. The slots are as wide as a number of 53 bits and a sign allows.
local SLOTS = { -9007199254740992, -4503599627370496, 0, 4503599627370496 }
local OUT, WIDTH, LATEST = 4, 4503599627370496, 4503599627370495

-- Write a line's record, and put it where `choose` finds it. The only place that writes either.
local function save(line)
  local place, slot, time = 0, line.tier, nil
  if line.stands then
    place = line.class
  elseif line.assigned then
    place = line.class
    time = is_flagged(line) and 1 or line.paused >= NEVER and 2 or nil
    if time then slot = OUT end
  end
  if place > 0 and not time then
    local at, why = ready_at(line, true)
    time = line.used
    if why and at > time then time = at < LATEST and at or LATEST end
  end
  local lent, letter = '', line.stands and 121 or 110
  if line.lent ~= '' or line.loans then
    for _, loan in ipairs(loans_of(line)) do
      lent = lent .. loan.process .. ',' .. int(loan.sends) .. ',' .. int(loan.tokens) .. ',' .. int(loan.since) .. ','
        .. int(loan.ends) .. (loan.revoked and ',1,' or ',0,') .. int(loan.turn) .. ';'
    end
    if lent ~= '' then lent, letter = lent .. '!', letter - 32 end
  end
  local volume, starts = line.volume, line.starts
  local w, y = #volume % 256, #starts % 256
  local record = char(letter, line.tier, line.class, place, bytes_of(line.used))
    .. char((#volume - w) / 256, w, (#starts - y) / 256, y, bytes_of(line.tat)) .. lent .. volume .. starts .. line.told
  if line.place ~= place then
    if line.place > 0 then call('ZREM', KEYS[1 + line.place], line.number) end
    line.place = place
  end
  if place > 0 then call('ZADD', KEYS[1 + place], int(SLOTS[slot] + time), line.number) end
  call('HSET', KEYS[1], line.number, record)
end

-- Take n tokens, of what a line's bucket may give by itself, at a time. Returns the cost of one.
local function take(line, at, n)
  local interval = bucket_of(line)
  if interval >= NEVER then return 0 end  -- it gives none: what is sent all the same is owed nothing
  if interval > 0 then
    local least = at + aside(line) * interval
    line.tat = max(line.tat, least) + n * interval
  end
  return interval
end

-- Take what one send at a time costs the line; the cost in the bucket is returned, 0 where the line is unpaced. `used`
-- only grows, so that equal clocks still take turns.
local function spend(line, at, starts)
  local limits, cost = limits_of(line), take(line, at, 1)
  line.used = max(now, line.used + 1)
  line.volume = window_add(line.volume, limits[7], limits[8], at, 1)
  if starts then line.starts = window_add(line.starts, limits[9], limits[10], at, 1) end
  return cost
end

-- Give back what one send took. A token comes back only if it was the last that the bucket gave: after another, the
-- times at which that one was admitted stand on it.
local function unspend(line, at, starts, tat, cost)
  if tat == line.tat then line.tat = line.tat - cost end
  line.volume = window_remove(line.volume, limits_of(line)[8], at, 1)
  if starts then line.starts = window_remove(line.starts, limits_of(line)[10], at, 1) end
end
