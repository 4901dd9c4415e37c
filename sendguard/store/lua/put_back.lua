-- Let a member of a queue be due later, or, while it is worked on, keep it from others for longer.
--
-- KEYS: 6 queue (sorted set, score: when it is due). ARGV: 3 member; 4 in how long.
-- Reply: always 1. Cost: 1 command.

call('ZADD', KEYS[6], 'XX', int(now + tonumber(ARGV[4])), ARGV[3])
return 1
