-- What every script shares: its keys, the policy's arguments and the clock. Times are microseconds since the epoch, as
-- whole numbers. The layers of a script (prelude, windows, records, ...) see those in front of them: `scripts.py`.
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
