-- How long it takes at the most until nothing that was called back of some lines can be used.
--
-- ARGV: 18... the lines.
-- Reply: the time, 0 if nothing of it can be used now.
-- Cost: one HGET a line.

local longest = 0
for i = 18, #ARGV do
  local line = read_line(ARGV[i])
  if line then longest = math.max(longest, usable(line)) end
end
return int(longest)
