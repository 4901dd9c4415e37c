-- What `decide` does, step by step. KEYS and ARGV are told there.

local kind, class, remember, patience, binds, recorded, request_text  -- what is asked, as its text says
local from, dry, order                                                -- and what differs from one to the next
local told, memory, considered, count, loan                           -- what is answered, and recorded
local LOOKED_AT = 16

local function read_request(text)
  request_text = nil
  local type_asked, waits_for
  kind, type_asked, remember, waits_for, binds, recorded = match(text, '^(.-)|(.-)|(.-)|(.-)|(.-)|(.*)$')
  class, patience = tonumber(type_asked), tonumber(waits_for)
  remember, binds, recorded = remember == '1', binds == '1', recorded == '1'
  request_text = text
end

-- A dry run takes the same steps: of their commands only those that read are carried out. The policy's overrides ride along.
local function dry_run(overrides)
  local reads, own = { GET = true, HGET = true, ZRANGEBYSCORE = true }, {}
  for number, limits in gmatch(overrides, '([^=]*)=([^;]*);') do own[number] = limits end
  call = function(command, key, ...)
    if command == 'HMGET' then return { own[...] or false, '1' } end
    return reads[command] and redis.call(command, key, ...)
  end
end

-- Note a line for the record: why it may not be sent on, or nil, and when it may.
local function looked(number, why, at)
  if not (recorded or dry) or count == LOOKED_AT or count > 0 and find(considered, number .. ',', 1, true) then return end
  local wait = at >= NEVER and '' or at > now and int(at - now) or '0'
  considered = (count > 0 and considered .. ';' or '') .. number .. ',' .. (why or '') .. ',' .. wait
  count = count + 1
end

local function record()
  return told .. '|' .. kind .. '|' .. (class or '') .. '|' .. sub(KEYS[7], -16) .. '|' .. memory .. '|' .. NOW .. '|'
    .. considered
end

local function reply(allowed, line, reason, wait, starts, previous, id, tat, cost, at)
  told = (allowed and '1|' or '0|') .. (line and line.number or '') .. '|' .. reason .. '|'
    .. (wait and (wait == 0 and '0' or int(wait)) or '') .. '|'
    .. (line and status_name(line) .. '|' .. HEALTH[line.tier] or '|') .. (starts and '|1|' or '|0|')
    .. (previous or '') .. '|' .. id
  return told .. '|' .. (cost and cost > 0 and int(tat) .. '|' .. int(cost) or '0|0') .. '|'
    .. (at and moment(at) or '0') .. '|' .. loan
end

local function deny(line, reason, at)
  return reply(false, line, reason, at and at < NEVER and at - now, false, '', ARGV[4])
end

-- `ready_at` with what only this recipient waits for.
local function ready_for(recipient, line, starts)
  local at, why = ready_at(line, starts)
  local window, limits = recipient.windows[line.number], limits_of(line)
  local free = window and window_free_at(window, limits[11], limits[12]) or 0
  if free > at then at, why = free, 'pair' end
  return at, why
end

-- What an idempotency key was answered, and what a waiter was promised: remembered for a day. A slot is void a second after
-- it has come, as two waiters could go at once by then.
local DAY, SLOT = 86400000000, 1000000

local function remembered(number, reason, starts, previous, id, tat, cost, at, taken)
  local life = taken == now and '86400000' or int(max(1, floor((taken + DAY - now) / 1000)))
  call('SET', KEYS[8], number .. '|' .. reason .. (starts and '|1|' or '|0|') .. previous .. '|' .. id .. '|'
    .. (cost > 0 and int(tat) .. '|' .. int(cost) or '0|0') .. '|' .. moment(at) .. '|' .. moment(taken)
    .. (at > now and '|0|' or '|1|'), 'PX', life)
end

-- Whether a line may be sent on as far as its standing goes, its pace left aside.
local function may_send(line)
  return line and (line.stands or line.assigned and not is_flagged(line) and line.paused <= now and line.cooling <= now)
end

-- The same answer for the same send (law 8). One whose slot has not come yet is void when the health of its line changed
-- since, as another pace holds now, or when nobody took it in time; one that was given is given again as long as its line
-- stands.
local function replay(recipient)
  local raw = call('GET', KEYS[8])
  if not raw then return nil end
  local number, reason, starts, previous, id, tat, cost, at, taken, given = match(raw, '^' .. string.rep(FIELD, 10))
  tat, cost, at, taken, starts = tonumber(tat), tonumber(cost), tonumber(at), tonumber(taken), starts == '1'
  if now - taken >= DAY then return nil end
  local line = read_line(number)
  if may_send(line) and (given == '1' or line.changed <= taken and now - at <= SLOT) then
    if at > now then
      if at - now > patience then
        looked(number, 'throttled', at)
        return deny(line, 'throttled', at)
      end
      memory = 'repeated'
      return reply(true, line, reason, at - now, starts, previous, id, tat, cost, at)
    end
    memory = given == '1' and 'repeated' or 'confirmed'
    if given ~= '1' then
      remembered(number, reason, starts, previous, id, tat, cost, at, taken)
    end
    return reply(true, line, reason, 0, starts, previous, id, tat, cost, at)
  end
  if given ~= '1' and line then
    unspend(line, at, starts, tat, cost)
    save(line)
    local window = recipient.windows[number]
    if window then recipient.windows[number] = window_remove(window, limits_of(line)[12], at, 1) end
    write_recipient(KEYS[7], recipient)
    call('DEL', KEYS[8])
  end
  memory = 'void'
  return nil
end

-- The first lines of a slot of the index, each with its time, over the line types asked for.
local function heads(slot, most)
  local found, filled = {}, 0
  for c = class or 1, class or 3 do
    local members =
      call('ZRANGEBYSCORE', KEYS[1 + c], int(SLOTS[slot]), '(' .. int(SLOTS[slot] + WIDTH), 'WITHSCORES', 'LIMIT', '0', most)
    if #members > 0 then filled = filled + 1 end
    for i = 1, #members, 2 do found[#found + 1] = { members[i], members[i + 1] - SLOTS[slot] } end
  end
  if filled > 1 then table.sort(found, function(a, b) return a[2] < b[2] end) end
  return found
end

-- The line that may start a conversation soonest, healthiest first: line, when, what it waits for. The index tells where
-- to look; the record decides, so that an index written under another policy costs a look and never a wrong answer.
local function choose(recipient)
  local excluded, excluded_count = {}, 0
  for i = 7, #ARGV do
    excluded[ARGV[i]] = true
    excluded_count = excluded_count + 1
  end
  local best, best_at, best_why = nil, NEVER, nil
  for i = 1, #tiers do
    for _, head in ipairs(heads(tonumber(sub(tiers, i, i)), excluded_count + 4)) do
      if excluded[head[1]] then
        looked(head[1], 'excluded', NEVER)
      else
        if best and head[2] >= best_at then break end
        local line = read_line(head[1])
        local at, why = ready_for(recipient, line, true)
        looked(head[1], why, at)
        if not why then return line, at end
        if not best or at < best_at then best, best_at, best_why = line, at, why end
        if why ~= 'pair' and at > head[2] and head[2] < LATEST then save(line) end
      end
    end
  end
  if best and best_at < NEVER then return best, best_at, best_why end
  for _, head in ipairs(heads(OUT, excluded_count + 1)) do
    if not excluded[head[1]] then
      local line = read_line(head[1])
      local why = is_flagged(line) and 'flagged' or 'paused'
      looked(head[1], why, NEVER)
      if not best or why == 'flagged' then best, best_why = line, why end
      break
    end
  end
  if best then return best, NEVER, best_why end
  for tier = 1, 3 do
    for _, head in ipairs(heads(tier, excluded_count + 1)) do
      if excluded[head[1]] then
        looked(head[1], 'excluded', NEVER)
      else
        looked(head[1], 'new_conversations', NEVER)
        return read_line(head[1]), NEVER, 'new_conversations'
      end
    end
  end
  return nil, NEVER, 'no_lines'
end

-- Whether a conversation may stay on its line.
local function holds(home)
  local line = home and read_line(home)
  return line and (line.stands or line.assigned and not is_flagged(line))
end

-- The API went on elsewhere than where a conversation lived: nobody goes on there.
local function call_back(number)
  local line = read_line(number)
  if line and line.lent ~= '' then
    revoke(line, KEYS[9], true)
    save(line)
  end
end

local function decide()
  local recipient = read_recipient(KEYS[7])
  local home = recipient.lines[1]
  if binds and recipient.consent < 0 then
    return deny(read_line(from ~= '' and from or home or '') or choose(recipient), 'opted_out')
  end
  if remember then
    local answer = replay(recipient)
    if answer then return answer end
  end
  local line, at, why, previous
  local reason, starts = 'sticky', false
  if from ~= '' then
    line, reason = read_line(from), 'requested'
    if not line or not (line.stands or line.assigned) then
      looked(from, 'unknown_line', NEVER)
      return deny(nil, 'unknown_line')
    end
    starts = kind ~= 'in_chat' and not recipient.windows[from]
    at, why = ready_for(recipient, line, starts)
    if starts and at < NEVER and not find(tiers, line.tier, 1, true) then at, why = NEVER, 'new_conversations' end
    if kind == 'sent' or kind == 'late' then at, why = now, nil end
    looked(from, why, at)
  elseif home then
    line = read_line(home)
    local gone = not line or not (line.stands or line.assigned)
    if kind == 'chat' and (gone or not line.stands and is_flagged(line) and on_flagged == 'failover') then
      local old = line
      previous, reason, starts = home, 'failover', true
      looked(home, gone and 'unknown_line' or 'flagged', NEVER)
      line, at, why = choose(recipient)
      if at >= NEVER and not gone then return deny(old, 'flagged') end
    elseif gone then
      looked(home, 'unknown_line', NEVER)
      return deny(nil, 'unknown_line')
    else
      at, why = ready_for(recipient, line, false)
      looked(home, why, at)
    end
  else
    reason, starts = 'new_conversation', true
    line, at, why = choose(recipient)
  end
  if why and (at >= NEVER or at - now > patience) then return deny(line, why, at) end

  if at < now then at = now end
  local cost = spend(line, at, starts)
  local tat, number, limits = line.tat, line.number, limits_of(line)
  if number ~= home then
    add_conversation(recipient, number, from == '' or kind == 'sent' or not holds(home))
  end
  recipient.windows[number] = window_add(recipient.windows[number], limits[11], limits[12], at, 1)
  if order ~= '' then loan = lend(order, line, recipient, at, starts) end
  save(line)
  write_recipient(KEYS[7], recipient)
  if remember then
    remembered(number, reason, starts, previous or '', ARGV[4], tat, cost, at, now)
  end
  if kind == 'sent' and home and home ~= number then call_back(home) end
  return reply(true, line, reason, at - now, starts, previous, ARGV[4], tat, cost, at)
end
