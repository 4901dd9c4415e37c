-- Decide one send: which line may carry it, or why none may and when to ask again.
--
-- KEYS: 16 recipient; 17 remembered answer (used if ARGV 22 is '1'); 18 decisions (stream).
-- ARGV: 18 kind, 'in_chat' for a send into a chat that lives on `from_number`, 'sent' for one that left from there unasked
--   and is only counted, or 'late' for one that was decided without the store, which moves no conversation; 19 from_number or ''; 20 line type ('' any, '1' iMessage, '2' RCS); 21 decision id; 22 remember;
--   23 how long the caller would wait; 24 '1' if an opt-out binds;
--   25 '1' if the decision is recorded, '' if not, or '=' and the policy's overrides (number=limits; each) for a dry run,
--   which writes nothing; 26 for the layer `lend`; 27... lines not to start a conversation on.
-- Reply: allowed|line|reason|wait|status|health|new conversation|previous line|decision id|tat|cost|at|loan. On a denial,
--   wait is '' where waiting cannot help. An allowed decision with a wait is a slot that the caller holds: it asks again
--   then, with the same remembered answer, and learns whether the line may still be sent on.
-- Record, in the stream and as a dry run's reply: the first nine fields of the reply|kind|line type|recipient's digest|
--   what became of a remembered answer: '', 'repeated', 'confirmed' (a slot that has come) or 'void' (decided anew)|
--   now|the first 16 lines looked at, each number,why not,wait ('' where waiting cannot help); and so on.
-- Cost: 8 to 11 commands whatever the number of lines; one HGET more for each line excluded.

local kind, from, class = ARGV[18], ARGV[19], tonumber(ARGV[20])
local remember, patience = ARGV[22] == '1', tonumber(ARGV[23])
local RECORDED, DRY, LOOKED_AT = ARGV[25] == '1', ARGV[25] ~= '1' and ARGV[25] ~= '', 16

-- A dry run takes the same steps: of their commands only those that read are carried out.
if DRY then
  local reads, own = { GET = true, HGET = true, ZRANGE = true }, {}
  for number, limits in ARGV[25]:sub(2):gmatch('([^=]*)=([^;]*);') do own[number] = limits end
  call = function(command, key, ...)
    if key == KEYS[14] then return own[...] or false end
    return reads[command] and redis.call(command, key, ...)
  end
end

local told, memory, considered, count, loan = '', '', '', 0, ''

-- Note a line for the record: why it may not be sent on, or nil, and when it may.
local function looked(number, why, at)
  if ARGV[25] == '' or count == LOOKED_AT or considered:find(number .. ',', 1, true) then return end
  local wait = at >= NEVER and '' or at > now and int(at - now) or '0'
  considered = considered .. (count > 0 and ';' or '') .. number .. ',' .. (why or '') .. ',' .. wait
  count = count + 1
end

local function record()
  return told .. '|' .. kind .. '|' .. ARGV[20] .. '|' .. KEYS[16]:sub(-16) .. '|' .. memory .. '|' .. NOW .. '|'
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
  return reply(false, line, reason, at and at < NEVER and at - now, false, '', ARGV[21])
end

-- `ready_at` with what only this recipient waits for.
local function ready_for(recipient, line, starts)
  local at, why = ready_at(line, starts)
  local free = window_free_at(recipient.windows[line.number] or '', limits_of(line)[11], limits_of(line)[12])
  if free > at then at, why = free, 'pair' end
  return at, why
end

-- What an idempotency key was answered, and what a waiter was promised: remembered for a day.
local remembered, replay
if remember then
  local DAY, SLOT = 86400000000, 1000000

  -- A line that may be sent on as far as its standing goes, its pace left aside.
  local function stands(line)
    return line and (line.stands or line.assigned and not is_flagged(line) and line.paused <= now and line.cooling <= now)
  end

  function remembered(number, reason, starts, previous, id, tat, cost, at, taken)
    local life = taken == now and '86400000' or int(math.max(1, math.floor((taken + DAY - now) / 1000)))
    call('SET', KEYS[17], number .. '|' .. reason .. (starts and '|1|' or '|0|') .. previous .. '|' .. id .. '|'
      .. (cost > 0 and int(tat) .. '|' .. int(cost) or '0|0') .. '|' .. moment(at) .. '|' .. moment(taken)
      .. (at > now and '|0|' or '|1|'), 'PX', life)
  end

  -- The same answer for the same send (law 8). One whose slot has not come yet is void when the health of its line changed
  -- since, as another pace holds now, or when nobody took it for a second, as two of them could go at once by then; one that
  -- was given is given again as long as its line stands.
  function replay(recipient)
    local raw = call('GET', KEYS[17])
    if not raw then return nil end
    local number, reason, starts, previous, id, tat, cost, at, taken, given = raw:match('^' .. string.rep(FIELD, 10))
    tat, cost, at, taken, starts = tonumber(tat), tonumber(cost), tonumber(at), tonumber(taken), starts == '1'
    if now - taken >= DAY then return nil end
    local line = read_line(number)
    if stands(line) and (given == '1' or line.changed <= taken and now - at <= SLOT) then
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
      write_recipient(KEYS[16], recipient)
      call('DEL', KEYS[17])
    end
    memory = 'void'
    return nil
  end
end

-- The line that may start a conversation soonest, healthiest first: line, when, what it waits for. The index tells where
-- to look; the record decides, so that an index written under another policy costs a look and never a wrong answer.
local function choose(recipient)
  local excluded, excluded_count = {}, 0
  for i = 27, #ARGV do
    excluded[ARGV[i]] = true
    excluded_count = excluded_count + 1
  end

  -- The first lines of one tier, by score, over the line types asked for.
  local function heads(tier, count)
    local found, filled = {}, 0
    for c = class or 1, class or 3 do
      local members = call('ZRANGE', KEYS[1 + 3 * (tier - 1) + c], '0', int(count - 1), 'WITHSCORES')
      if #members > 0 then filled = filled + 1 end
      for i = 1, #members, 2 do
        if excluded[members[i]] then
          looked(members[i], 'excluded', NEVER)
        else
          found[#found + 1] = { members[i], tonumber(members[i + 1]) }
        end
      end
    end
    if filled > 1 then table.sort(found, function(a, b) return a[2] < b[2] end) end
    return found
  end

  local best, best_at, best_why = nil, NEVER, nil
  for i = 1, #ARGV[13] do
    for _, head in ipairs(heads(tonumber(ARGV[13]:sub(i, i)), excluded_count + 4)) do
      if best and head[2] >= best_at then break end
      local line = read_line(head[1])
      local at, why = ready_for(recipient, line, true)
      looked(head[1], why, at)
      if not why then return line, at end
      if not best or at < best_at then best, best_at, best_why = line, at, why end
      if why ~= 'pair' and at > head[2] then save(line) end
    end
  end
  if best and best_at < NEVER then return best, best_at, best_why end
  for c = class or 1, class or 3 do
    for _, number in ipairs(call('ZRANGE', KEYS[10 + c], '0', int(excluded_count))) do
      if not excluded[number] then
        local line = read_line(number)
        local why = is_flagged(line) and 'flagged' or 'paused'
        looked(number, why, NEVER)
        if not best or why == 'flagged' then best, best_why = line, why end
        break
      end
    end
  end
  if best then return best, NEVER, best_why end
  for tier = 1, 3 do
    local head = heads(tier, excluded_count + 1)[1]
    if head then
      looked(head[1], 'new_conversations', NEVER)
      return read_line(head[1]), NEVER, 'new_conversations'
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
    revoke(line, KEYS[19], true)
    save(line)
  end
end

local function decide()
  local recipient = read_recipient(KEYS[16])
  local home = recipient.lines[1]
  if ARGV[24] == '1' and recipient.consent < 0 then
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
    if starts and at < NEVER and not ARGV[13]:find(line.tier, 1, true) then at, why = NEVER, 'new_conversations' end
    if kind == 'sent' or kind == 'late' then at, why = now, nil end
    looked(from, why, at)
  elseif home then
    line = read_line(home)
    local gone = not line or not (line.stands or line.assigned)
    if kind == 'chat' and (gone or not line.stands and is_flagged(line) and ARGV[14] == 'failover') then
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

  at = math.max(at, now)
  local cost = spend(line, at, starts)
  local tat = line.tat
  add_conversation(recipient, line.number, from == '' or kind == 'sent' or not holds(home))
  recipient.windows[line.number] =
    window_add(recipient.windows[line.number], limits_of(line)[11], limits_of(line)[12], at, 1)
  if lend then loan = lend(line, recipient, at, starts) end
  save(line)
  write_recipient(KEYS[16], recipient)
  if remember then
    remembered(line.number, reason, starts, previous or '', ARGV[21], tat, cost, at, now)
  end
  if revoke and kind == 'sent' and home and home ~= line.number then call_back(home) end
  return reply(true, line, reason, at - now, starts, previous, ARGV[21], tat, cost, at)
end

local answer = decide()
if DRY then return record() end
if RECORDED then call('XADD', KEYS[18], 'MAXLEN', '~', '10000', '*', 'decision', record()) end
return answer
