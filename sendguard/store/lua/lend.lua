-- Lending: a process that was let send in a conversation gets more sends of it, to decide by itself for a short time.
--
-- All of them count at once, and as of the end of that time, so that no limit is passed whenever they are used. What is
-- out of a line is at most a quarter of what its limits have left besides, so that the others find some, too.
--
-- order: process|turn|how long|how many at most; '' to lend nothing.
-- Reply, in that of `decide`: how many,tokens of the bucket among them,until; '' where nothing is lent.

local function a_quarter(left, out) return floor((left + out) / 4) - out end

local function lend(order, line, recipient, at, starts)
  local process, turn, span, most = match(order, '^(%x+)|(%d+)|(%d+)|(%d+)$')
  if not process or starts or at > now or not line.stands or recipient.consent < 0 or recipient.lines[1] ~= line.number then
    return ''
  end
  local own, out = nil, 0
  for _, loan in ipairs(loans_of(line)) do
    if loan.process == process then own = loan end
    if loan.ends > now then out = out + loan.sends end
  end
  if own and own.revoked then return '' end
  local limits, window, tokens = limits_of(line), recipient.windows[line.number], 0
  local interval, tolerance = bucket_of(line)
  local n = min(
    tonumber(most),
    a_quarter(limits[7] - total_of(line.volume), out),
    a_quarter(limits[11] - total_of(window), 0)
  )
  if interval > 0 then
    local held = aside(line)
    local level = (now + tolerance + interval - max(line.tat, now + held * interval)) / interval
    n = min(n, a_quarter(floor(level), held))
    tokens = n
  end
  if n < 1 then return '' end
  if not own then
    own = { process = process, sends = 0, tokens = 0, since = 0, ends = 0, revoked = false, turn = 0 }
    table.insert(line.loans, own)
  end
  local ends = now + tonumber(span)
  take(line, now, n)
  line.volume = window_add(line.volume, limits[7], limits[8], ends, n)
  recipient.windows[line.number] = window_add(window, limits[11], limits[12], ends, n)
  if own.tokens == 0 then own.since = now end
  own.sends, own.tokens = own.sends + n, own.tokens + tokens
  own.ends, own.turn = max(own.ends, ends), max(own.turn, tonumber(turn))
  return int(n) .. ',' .. int(tokens) .. ',' .. int(ends)
end
