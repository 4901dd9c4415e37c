-- Whether anything that was called back of some lines has not been given back. What has run out counts: who waits knows by
-- a clock of its own when that is.
--
-- ARGV: 3... the lines.
-- Reply: 1 or 0.
-- Cost: one HGET a line.

for i = 3, #ARGV do
  local line = read_line(ARGV[i])
  if line and usable_until(line) then return 1 end
end
return 0
