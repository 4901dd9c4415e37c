-- Let a member of a queue be due later, or, while it is worked on, keep it from others for longer.
--
-- KEYS: 16 queue (sorted set, score: when it is due). ARGV: 18 member; 19 in how long.
-- Reply: always 1. Cost: 1 command.

call('ZADD', KEYS[16], 'XX', int(now + tonumber(ARGV[19])), ARGV[18])
return 1
