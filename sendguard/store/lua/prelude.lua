-- What every script shares: its keys, the policy, the clock. Times are microseconds since the epoch, as whole numbers.
--
-- The layers (prelude, windows, records, ...) and the scripts are one text, in which each sees what stands before it. As a
-- library of functions it is read once, by the server; as a script, from its first line at each run: `scripts.py`. So what
-- belongs to one run is set by `start`, and what is kept from run to run is what a text means, by that text, and no more.
--
-- KEYS (all scripts): 1 lines (hash: number -> record); 2-4 the index: a sorted set for each line type (see `save`);
--   5 overrides (hash). A script's own keys follow.
-- ARGV (all scripts): 1 the policy, each field with a '|' behind it: 1-6 interval and tolerance of the buckets HEALTHY,
--   AT_RISK, CRITICAL (interval 0: unpaced); 7-12 limit and window of daily_volume, new_conversations, pair; 13 tiers that
--   may start conversations, best first; 14 on_flagged; 15 '1' if there are overrides; 16 cool_down. 2 now ('' for the
--   server's clock). A script's own arguments follow.

local NEVER = 9007199254740991
local NO_OVERRIDES = 'NOOVERRIDES the overrides of this policy are not in the store'
local FIELD = '([^|]*)|'

local KEYS, ARGV, call, now, NOW
local policy, tiers, on_flagged, overridden, cool_down, policy_text
local own_limits, own_text  -- those of one line under this policy, and the overrides that they are of
local byte, char, find, format, gmatch, match, sub, ceil, floor, max, min  -- which may not be looked up before a run

-- A whole number as text. Lua's own tostring would round a time to 14 digits.
local function int(x) return format('%d', x) end

-- The same for a time that mostly is the present.
local function moment(at) return at == now and NOW or int(at) end

local function read_policy(text)
  policy_text, own_text = nil, nil
  local found = {}
  for field in gmatch(text, FIELD) do found[#found + 1] = field end
  tiers, on_flagged, overridden, cool_down = found[13], found[14], found[15], tonumber(found[16])
  for i = 1, 12 do found[i] = tonumber(found[i]) end
  policy, policy_text = found, text
end

local function start(keys, args)
  KEYS, ARGV, call = keys, args, redis.call
  if not byte then
    byte, char, find, format, gmatch = string.byte, string.char, string.find, string.format, string.gmatch
    match, sub, ceil, floor, max, min = string.match, string.sub, math.ceil, math.floor, math.max, math.min
  end
  if args[1] ~= policy_text then read_policy(args[1]) end
  if args[2] ~= '' then
    now, NOW = tonumber(args[2]), args[2]
  else
    local time = call('TIME')
    local seconds, micros = time[1], time[2]
    now = seconds * 1000000 + micros
    NOW = #micros == 6 and seconds .. micros or int(now)
  end
end

local function run(script, keys, args)
  start(keys, args)
  if overridden == '1' and call('EXISTS', KEYS[5]) == 0 then return redis.error_reply(NO_OVERRIDES) end
  return script()
end

-- The same for a script that reads the limits of a line before it writes anything: `limits_of` finds out there.
local MISSING = {}
local function run_reading(script, keys, args)
  start(keys, args)
  local done, answer = pcall(script)
  if done then return answer end
  if answer == MISSING then return redis.error_reply(NO_OVERRIDES) end
  -- What a command answered keeps its code, by which the client knows what to do.
  if type(answer) == 'table' then return answer end
  if type(answer) == 'string' and match(answer, '^%-?%u+ ') then return redis.error_reply(answer) end
  return error(answer, 0)
end
