-- Lines: their records, token buckets, and the index that `choose` looks them up in.
--
-- A record: summary, what observations told, and what sends changed, behind '!'. The summary is 'y' if neither status,
-- assignment, pause nor cooling down is in the way ('n': look), the tier and the class; a send of a line that stands
-- reads no more than that. status and health are as the API spelt them, '' if it never said. paused: until when (NEVER:
-- until resumed). tat: the theoretical arrival time of the token bucket. changed: when the health last changed.
-- place: the index set that holds the line, 0 for none. lent: what processes hold of its budget, '' for nothing; where
-- there is any, the summary begins with a capital letter, and it stands in front of the windows.

-- Fills in what observations told when the first of it is asked for.
local unfold = { __index = function(line, name)
  setmetatable(line, nil)
  local FIELDS = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'
  local status, status_at, health, health_at, assigned, assigned_at, kind, kind_at, paused, cooling, altered =
    line.told:match(FIELDS)
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
  local lent = ''
  if stands < 'a' then
    lent, windows = windows:match('^([^!]*)!(.*)$')
    stands = stands:lower()
  end
  return setmetatable({
    number = number, stands = stands == 'y', lent = lent, loans = false, tier = tonumber(tier), class = tonumber(class), told = told, limits = false,
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

local HEALTH = { 'HEALTHY', 'AT_RISK', 'CRITICAL' }
local function status_name(line) return not line.stands and is_flagged(line) and 'FLAGGED' or 'ACTIVE' end

local FIELD = '([^|]*)|'
local policy

-- The limits that hold for a line, by the number of the policy's argument (1-12).
local function limits_of(line)
  if line.limits then return line.limits end
  if not policy then
    policy = { tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]),
      tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]),
      tonumber(ARGV[11]), tonumber(ARGV[12]) }
  end
  local limits, own = policy, ARGV[15] ~= '0' and call('HGET', KEYS[14], line.number)
  if own then
    limits = { own:match('^' .. string.rep(FIELD, 12)) }
    for i = 1, 12 do limits[i] = tonumber(limits[i]) or policy[i] end
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
    line.lent:gmatch('(%x+),(%d+),(%d+),(%d+),(%d+),([01]),(%d+);')
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
    if interval > 0 and interval < NEVER and loan.tokens > 0 then line.tat = math.max(line.tat, loan.ends + tokens * interval) end
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
      if loan.tokens > 0 then tokens, last = tokens + loan.tokens, math.max(last, loan.ends) end
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
    if tokens * interval > tolerance then free = math.max(free, last) end
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
  local lent = ''
  if line.lent ~= '' or line.loans then
    for _, loan in ipairs(loans_of(line)) do
      lent = lent .. loan.process .. ',' .. int(loan.sends) .. ',' .. int(loan.tokens) .. ',' .. int(loan.since) .. ','
        .. int(loan.ends) .. (loan.revoked and ',1,' or ',0,') .. int(loan.turn) .. ';'
    end
  end
  local some = lent ~= ''
  call('HSET', KEYS[1], line.number, (line.stands and (some and 'Y' or 'y') or some and 'N' or 'n') .. line.tier
    .. line.class .. '!' .. line.told .. '!' .. used .. '|' .. moment(line.tat) .. '|' .. place .. '|' .. #line.volume
    .. '|' .. (some and lent .. '!' or '') .. line.volume .. line.starts)
end

-- Take n tokens, of what a line's bucket may give by itself, at a time. Returns the cost of one.
local function take(line, at, n)
  local interval = bucket_of(line)
  if interval > 0 then
    local floor = at + aside(line) * interval
    line.tat = math.max(line.tat, floor) + n * interval
  end
  return interval
end

-- Take what one send at a time costs the line; the cost in the bucket is returned, 0 where the line is unpaced. `used`
-- only grows, so that equal clocks still take turns.
local function spend(line, at, starts)
  local limits, cost = limits_of(line), take(line, at, 1)
  line.used = math.max(now, line.used + 1)
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

-- What the layers `lend` and `lent` add, in the scripts that have them.
local lend, revoke
