-- Take, or give back, the right to poll: one holder at a time in a fleet, and one poll in each interval.
--
-- KEYS: 6 lease; 7 meta (hash). ARGV: 3 token; 4 how long the lease lasts (ms); 5 interval; 6 '1' to give it back.
-- Reply: 0 if the caller now holds the lease (or gave it back); else how long until it may ask again.
-- Cost: 2 or 3 commands.

if ARGV[6] == '1' then
  if call('GET', KEYS[6]) == ARGV[3] then call('DEL', KEYS[6]) end
  return 0
end
local due = tonumber(call('HGET', KEYS[7], 'polled_at') or '-1')
if due >= 0 and due + tonumber(ARGV[5]) > now and due <= now then return due + tonumber(ARGV[5]) - now end
if call('SET', KEYS[6], ARGV[3], 'NX', 'PX', ARGV[4]) then return 0 end
return max(1000, call('PTTL', KEYS[6]) * 1000)
