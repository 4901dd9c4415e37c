-- Take back what a process was lent and has not used, and record the sends that it decided by itself.
--
-- KEYS: 6 decisions (stream); 7... the recipient of each loan.
-- ARGV: 3 process; 4 how many lines; 5 how many loans; then for each line of which the process holds nothing any more:
--   number, and the turn in which it dropped what it held (it may have asked for more since); for each loan: line, sends,
--   tokens, how many sends of it are unused, until; then the records of its decisions.
-- Reply: always 1.
-- Cost: 3 commands a line, 2 a loan of which something is left, and one XADD a decision.

local process, lines, loans = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local known = {}

local function line_of(number)
  if known[number] == nil then known[number] = read_line(number) or false end
  return known[number]
end

local function held_of(line)
  for i, loan in ipairs(loans_of(line)) do
    if loan.process == process then return loan, i end
  end
end

-- Keep n tokens aside no longer, and put some of them back: the bucket cannot have filled up in their place.
local function release(line, held, n, back)
  local interval = bucket_of(line)
  if interval > 0 and interval < NEVER then
    local least = now + aside(line) * interval
    line.tat = max(line.tat, least) - back * interval
  end
  held.tokens = held.tokens - n
end

-- Take back one loan, as far as the store knows of it: one that forgot it has not counted it either.
local function take_back(i, key)
  local line = line_of(ARGV[i])
  local held = line and held_of(line)
  if not held then return end
  local sends, tokens, unused = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local limits, ends = limits_of(line), tonumber(ARGV[i + 4])
  unused = min(unused, held.sends)
  held.sends = max(0, held.sends - sends)
  -- Those of a loan that was over before the first of those now held have been settled.
  tokens = ends > held.since and min(tokens, held.tokens) or 0
  if tokens > 0 then release(line, held, tokens, min(tokens, unused)) end
  if unused == 0 then return end
  line.volume = window_remove(line.volume, limits[8], ends, unused)
  local recipient = read_recipient(key)
  local window = recipient.windows[line.number]
  if window then
    recipient.windows[line.number] = window_remove(window, limits[12], ends, unused)
    write_recipient(key, recipient)
  end
end

local at = 6 + 2 * lines
for i = 1, loans do
  take_back(at, KEYS[6 + i])
  at = at + 5
end
for i = 6, 5 + 2 * lines, 2 do
  local line = line_of(ARGV[i])
  local held, place = nil, nil
  if line then held, place = held_of(line) end
  if held and held.turn < tonumber(ARGV[i + 1]) then
    release(line, held, held.tokens, 0)
    table.remove(line.loans, place)
  end
end
for _, line in pairs(known) do
  if line then save(line) end
end
for i = at, #ARGV do call('XADD', KEYS[6], 'MAXLEN', '~', '10000', '*', 'decision', ARGV[i]) end
return 1
