-- How a line takes in what is told of it, field by field. It follows `news` in the scripts that tell.

local function fresh(number)
  return {
    number = number, status = '', status_at = -1, health = '', health_at = -1, assigned = true, assigned_at = -1,
    kind = '', kind_at = -1, paused = 0, cooling = 0, used = 0, tat = 0, changed = 0, place = 0, volume = '', starts = '',
    lent = '', loans = false,
    stands = true, tier = 1, class = 1, limits = false, known = false,
  }
end

-- What `read_line` takes apart, and the summary that sends go by. What is lent of the line is called back where it may
-- not be sent on any more, or at another pace. Of a line that was not known nobody can tell what is lent: a store that
-- forgot the line has forgotten that, too. key: of the stream of revocations. span: of loans in this pool, 0 for none.
local function fold(line, key, span)
  local stood, tier = line.stands, line.tier
  line.stands = line.assigned and not is_flagged(line) and line.paused == 0 and line.cooling == 0
  line.tier = tier_of(line.health)
  line.class = (line.kind == '' or line.kind == 'iMessage') and 1 or line.kind == 'RCS' and 2 or 3
  line.told = table.concat({
    line.status, int(line.status_at), line.health, int(line.health_at), line.assigned and '1' or '0',
    int(line.assigned_at), line.kind, int(line.kind_at), int(line.paused), int(line.cooling), int(line.changed),
  }, '|')
  if line.known == false and span > 0 then
    line.loans = { { process = '0', sends = 0, tokens = 0, since = 0, ends = now + span, revoked = false, turn = 0 } }
  end
  local rests = line.known == false or not stood  -- which is no reason then
  local worse = not line.stands and (not rests or is_flagged(line) or not line.assigned or line.paused > 0)
  if (line.lent ~= '' or line.loans) and (worse or tier ~= line.tier) then
    revoke(line, key, tier == line.tier)
  end
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
    if interval > 0 and interval < NEVER then
      local least = now + aside(line) * interval  -- what is lent may have been sent just now
      line.tat = min(max(line.tat, least), now + tolerance + interval)
    end
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

-- Record the changes for those who follow them. Returns what the caller is told: the changes, and what it waits for.
local function told(key, source, event)
  for _, change in ipairs(changes) do
    call('XADD', key, 'MAXLEN', '~', '10000', '*', 'change', change, 'source', source, 'event', event)
  end
  for _, wait in ipairs(waits) do changes[#changes + 1] = wait end
  return changes
end
