-- Lending: a process that was let send in a conversation gets more sends of it, to decide by itself for a short time.
--
-- All of them count at once, and as of the end of that time, so that no limit is passed whenever they are used. At most a
-- quarter of what each limit has left is lent, so that the others find some, too.
--
-- ARGV: 26 process|how long|how many at most; '' to lend nothing. KEYS: 19 revocations (stream).
-- Reply, in that of `decide`: how many,tokens of the bucket among them,until; '' where nothing is lent.

function lend(line, recipient, at, starts)
  local process, span, most = ARGV[26]:match('^(%x+)|(%d+)|(%d+)$')
  if not process or starts or at > now or not line.stands or recipient.consent < 0 or recipient.lines[1] ~= line.number then
    return ''
  end
  local held, others = 0, ''
  for who, tokens, ends, revoked, mark in line.lent:gmatch(LENT) do
    if who == process then
      if revoked == '1' and tonumber(ends) > now then return '' end
      held = tonumber(ends) > now and tonumber(tokens) or 0
    elseif tonumber(ends) > now then
      others = others .. who .. ',' .. tokens .. ',' .. ends .. ',' .. revoked .. ',' .. mark .. ';'
    end
  end
  local limits, window, tokens = limits_of(line), recipient.windows[line.number], 0
  local interval, tolerance = bucket_of(line)
  local n = math.min(
    tonumber(most),
    math.floor((limits[7] - total_of(line.volume)) / 4),
    math.floor((limits[11] - total_of(window)) / 4)
  )
  if interval > 0 then
    local full = now + tolerance + interval
    n = math.min(n, math.floor((full - math.max(line.tat, now + aside(line) * interval)) / interval / 4))
    tokens = n
  end
  if n < 1 then return '' end
  local ends = now + tonumber(span)
  take(line, now, n)
  line.volume = window_add(line.volume, limits[7], limits[8], ends, n)
  recipient.windows[line.number] = window_add(window, limits[11], limits[12], ends, n)
  line.lent = others .. process .. ',' .. int(held + tokens) .. ',' .. int(ends) .. ',0,' .. ARGV[21]:sub(1, 8) .. ';'
  return int(n) .. ',' .. int(tokens) .. ',' .. int(ends)
end
