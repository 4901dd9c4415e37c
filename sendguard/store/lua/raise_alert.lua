-- Raise an alert, once in the fleet: queue it for every channel that is to be told, unless the quiet time holds it back.
--
-- KEYS: 6 transitions (stream); 7 alert (hash); 8 told (hash: subject|severity -> when); 9 held (queue of subjects);
--   10 what is held of the subject (hash); 11 audits (queue of lines); 12 the line's audit (hash); 13... the channels'
--   queues. A queue is a sorted set whose score is when its member is due.
-- ARGV: 3 consumer group; 4 whence: the id of a transition's entry, 'held' (the quiet time is over) or 'reminder';
--   5 subject (line|field); 6 severity; 7 quiet time; 8 how long to wait for an audit, '0' for none; 9 alert's id;
--   10 line; 11... what to tell, names and values by turns.
-- Reply: 'raised'; 'held'; or 'gone', where it was raised before.
-- Cost: 5 to 12 commands, and one for each channel.

local ALERT, TOLD, HELD, REPEATS, AUDITS, AUDIT = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local whence, subject, severity, id = ARGV[4], ARGV[5], ARGV[6], ARGV[9]
local quiet, wait = tonumber(ARGV[7]), tonumber(ARGV[8])
local KEPT = 604800

local function tell(key)
  for i = 11, #ARGV, 2 do call('HSET', key, ARGV[i], ARGV[i + 1]) end
  call('EXPIRE', key, KEPT)
end

local function told_lately()
  local at = tonumber(call('HGET', TOLD, subject .. '|' .. severity) or '-1')
  return at >= 0 and at <= now and now < at + quiet and at
end

-- The last of what is held back is what will be told, with how many there were.
local function hold(told_at)
  call('HINCRBY', REPEATS, 'repeats', 1)
  call('HSETNX', REPEATS, 'repeats_since', int(now))
  call('HSET', REPEATS, 'quiet:' .. severity, '1')
  call('HSET', REPEATS, 'severity', severity)
  tell(REPEATS)
  call('ZADD', HELD, 'NX', int(told_at + quiet), subject)
end

if whence == 'reminder' then
  if told_lately() then return 'gone' end
elseif whence == 'held' then
  if call('HGET', REPEATS, 'transition') ~= id then
    call('ZADD', HELD, 'XX', int(now), subject)  -- another change was held back meanwhile
    return 'gone'
  end
  if call('ZREM', HELD, subject) == 0 then return 'gone' end
else
  if call('XACK', KEYS[6], ARGV[3], whence) == 0 then return 'gone' end
  local at = told_lately()
  if at then
    hold(at)
    return 'held'
  end
end

local repeats, since = call('HGET', REPEATS, 'repeats'), call('HGET', REPEATS, 'repeats_since')
if repeats then  -- all that was held back is told with this
  for _, each in ipairs({ 'page', 'warning', 'info', 'recovery' }) do
    if call('HEXISTS', REPEATS, 'quiet:' .. each) == 1 then call('HSET', TOLD, subject .. '|' .. each, int(now)) end
  end
  call('ZREM', HELD, subject)
  call('DEL', REPEATS)
end
call('HSET', TOLD, subject .. '|' .. severity, int(now))
call('HSET', ALERT, 'severity', severity)
call('HSET', ALERT, 'raised_at', int(now))
call('HSET', ALERT, 'repeats', repeats or '0')
call('HSET', ALERT, 'repeats_since', since or '')
call('HSET', ALERT, 'audit_until', wait > 0 and int(now + wait) or '')
tell(ALERT)
for i = 13, #KEYS do
  call('ZADD', KEYS[i], int(now), id)
  call('EXPIRE', KEYS[i], KEPT)
end
if wait > 0 and #KEYS >= 13 then
  if call('HGET', AUDIT, 'state') ~= 'running' then
    call('HSET', AUDIT, 'state', 'running')
    call('HSET', AUDIT, 'asked_at', int(now))
    call('HDEL', AUDIT, 'audit_id')
  end
  call('EXPIRE', AUDIT, KEPT)
  call('ZADD', AUDITS, 'NX', int(now), ARGV[10])
end
return 'raised'
