-- Apply a message that passed over a line: its volume, the sender's consent, and which line the conversation lives on.
--
-- KEYS: 16 event (used if ARGV 18 is '1'); 17 recipient (used if ARGV 24 is not ''); 18 chat (used if ARGV 25 is '1');
--   19 revocations (stream).
-- ARGV: 18 deduplicate; 19 line; 20 when it was sent; 21 '1' if a person sent it; 22 consent ('opt_in', 'opt_out' or '');
--   23 '1' if it is history, not news; 24 the sender's digest; 25 whether there is a chat id; 26 '1' in a group.
-- Reply: changes, as observe.lua.
-- Cost: 5 to 9 commands; up to 2 HGET, and where something is lent 3 more, for each line of a recipient who opts out.

local opts_out = ARGV[24] ~= '' and ARGV[22] == 'opt_out'
if ARGV[18] == '1' and not first_time(KEYS[16]) then
  if opts_out then wait_for_all(read_recipient(KEYS[17])) end
  return waits
end

local line = read_line(ARGV[19])
local at, news = observed(ARGV[20]), ARGV[23] ~= '1'

if ARGV[24] ~= '' then
  local recipient, touched = read_recipient(KEYS[17]), false
  local consent, known = ARGV[22], math.abs(recipient.consent)
  local out = consent == 'opt_out'
  if consent ~= '' and (at > known or (at == known and out)) then
    if out ~= (recipient.consent < 0) then
      changed({ number = ARGV[19] }, 'opted_out', tostring(recipient.consent < 0), tostring(out), at)
    end
    recipient.consent, touched = out and -at or at, true
  end
  -- A conversation whose line still stands is not moved by a message elsewhere (law 4); one that has none is found.
  if line and line.assigned and ARGV[26] ~= '1' and not recipient.windows[line.number] then
    local home = recipient.lines[1] and read_line(recipient.lines[1])
    local current = not (home and home.assigned)
    add_conversation(recipient, line.number, current)
    if current then changed(line, 'conversation', home and home.number or '', line.number, at) end
    touched = true
  end
  if touched then write_recipient(KEYS[17], recipient) end
  if opts_out and recipient.consent < 0 then
    revoke_all(recipient, KEYS[19], line)
    wait_for_all(recipient)
  end
end

if line and ARGV[25] == '1' then
  local known = call('GET', KEYS[18])
  local who = ARGV[26] == '1' and '' or ARGV[24]
  local same = who == '' and known and known:match('^[^|]*') == line.number
  call('SET', KEYS[18], same and known or line.number .. '|' .. who, 'EX', '2592000')
end

-- Sends were counted when they were decided.
if line and news and ARGV[21] == '1' then
  line.volume = window_add(line.volume, limits_of(line)[7], limits_of(line)[8], now, 1)
  save(line)
end
for _, wait in ipairs(waits) do changes[#changes + 1] = wait end
return changes
