-- Take back what a process was lent and has not used, and record the sends that it decided by itself.
--
-- KEYS: 16 decisions (stream); 17... the recipient of each loan.
-- ARGV: 18 process; 19 how many lines; 20 how many loans; then for each line: number, and what makes the process hold
--   nothing of it any more: the mark of the last loan that it knows of (another one may be on its way to it), or '*' where
--   it answers to having been called back; for each loan: line, tokens, how many sends of it are unused, until; then the
--   records of its decisions.
-- Reply: always 1.
-- Cost: 3 commands a line, 2 a loan of which something is left, and one XADD a decision.

local process, lines, loans = ARGV[18], tonumber(ARGV[19]), tonumber(ARGV[20])
local known = {}

local function line_of(number)
  if known[number] == nil then known[number] = read_line(number) or false end
  return known[number]
end

-- Tokens come back while they are kept aside: the bucket has not filled up in their place meanwhile.
local function take_back(line, tokens, unused)
  local interval = bucket_of(line)
  line.lent = line.lent:gsub(LENT, function(who, held, ends, revoked, mark)
    if who ~= process or tonumber(ends) <= now then return end
    tokens = math.min(tokens, tonumber(held))
    line.tat = line.tat - math.min(tokens, unused) * interval
    return who .. ',' .. int(tonumber(held) - tokens) .. ',' .. ends .. ',' .. revoked .. ',' .. mark .. ';'
  end)
end

local at = 21 + 2 * lines
for i = 1, loans do
  local line, unused, ends = line_of(ARGV[at]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if line then
    local limits = limits_of(line)
    line.volume = window_remove(line.volume, limits[8], ends, unused)
    if ARGV[at + 1] ~= '0' then take_back(line, tonumber(ARGV[at + 1]), unused) end
    local recipient = unused > 0 and read_recipient(KEYS[16 + i])
    local window = recipient and recipient.windows[line.number]
    if window then
      recipient.windows[line.number] = window_remove(window, limits[12], ends, unused)
      write_recipient(KEYS[16 + i], recipient)
    end
  end
  at = at + 4
end

for i = 21, 20 + 2 * lines, 2 do
  local line, last = line_of(ARGV[i]), ARGV[i + 1]
  if line and line.lent ~= '' then
    line.lent = line.lent:gsub(LENT, function(who, _, ends, revoked, mark)
      local given_back = last == mark or last == '*' and revoked == '1'
      if who == process and given_back or tonumber(ends) <= now then return '' end
    end)
  end
end
for _, line in pairs(known) do
  if line then save(line) end
end
for i = at, #ARGV do call('XADD', KEYS[16], 'MAXLEN', '~', '10000', '*', 'decision', ARGV[i]) end
return 1
