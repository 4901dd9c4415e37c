-- Take, or give back, the right to poll: one holder at a time in a fleet, and one poll in each interval.
--
-- KEYS: 16 lease. ARGV: 18 token; 19 how long the lease lasts (ms); 20 interval; 21 '1' to give it back.
-- Reply: 0 if the caller now holds the lease (or gave it back); else how long until it may ask again.
-- Cost: 2 or 3 commands.

if ARGV[21] == '1' then
  if call('GET', KEYS[16]) == ARGV[18] then call('DEL', KEYS[16]) end
  return 0
end
local due = tonumber(call('HGET', KEYS[15], 'polled_at') or '-1')
if due >= 0 and due + tonumber(ARGV[20]) > now and due <= now then return due + tonumber(ARGV[20]) - now end
if call('SET', KEYS[16], ARGV[18], 'NX', 'PX', ARGV[19]) then return 0 end
return math.max(1000, call('PTTL', KEYS[16]) * 1000)
