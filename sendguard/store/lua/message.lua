-- Apply a message that passed over a line: its volume, the sender's consent, and which line the conversation lives on.
--
-- KEYS: 6 event (used if ARGV 3 is '1'); 7 recipient (used if ARGV 9 is not ''); 8 chat (used if ARGV 10 is '1');
--   9 revocations (stream); 10 meta (hash).
-- ARGV: 3 deduplicate; 4 line; 5 when it was sent; 6 '1' if a person sent it; 7 consent ('opt_in', 'opt_out' or '');
--   8 '1' if it is history, not news; 9 the sender's digest; 10 whether there is a chat id; 11 '1' in a group.
-- Reply: changes, as observe.lua.
-- Cost: 5 to 9 commands; up to 2 HGET, and where something is lent 3 more, for each line of a recipient who opts out.

hear()
local opts_out = ARGV[9] ~= '' and ARGV[7] == 'opt_out'
if ARGV[3] == '1' and not first_time(KEYS[6], KEYS[10]) then
  if opts_out then wait_for_all(read_recipient(KEYS[7])) end
  return waits
end

local line = read_line(ARGV[4])
local at, news = observed(ARGV[5]), ARGV[8] ~= '1'

if ARGV[9] ~= '' then
  local recipient, touched = read_recipient(KEYS[7]), false
  local consent, known = ARGV[7], math.abs(recipient.consent)
  local out = consent == 'opt_out'
  if consent ~= '' and (at > known or (at == known and out)) then
    if out ~= (recipient.consent < 0) then
      changed({ number = ARGV[4] }, 'opted_out', tostring(recipient.consent < 0), tostring(out), at)
    end
    recipient.consent, touched = out and -at or at, true
  end
  -- A conversation whose line still stands is not moved by a message elsewhere (law 4); one that has none is found.
  if line and line.assigned and ARGV[11] ~= '1' and not recipient.windows[line.number] then
    local home = recipient.lines[1] and read_line(recipient.lines[1])
    local current = not (home and home.assigned)
    add_conversation(recipient, line.number, current)
    if current then changed(line, 'conversation', home and home.number or '', line.number, at) end
    touched = true
  end
  if touched then write_recipient(KEYS[7], recipient) end
  if opts_out and recipient.consent < 0 then
    revoke_all(recipient, KEYS[9], line)
    wait_for_all(recipient)
  end
end

if line and ARGV[10] == '1' then
  local known = call('GET', KEYS[8])
  local who = ARGV[11] == '1' and '' or ARGV[9]
  local same = who == '' and known and match(known, '^[^|]*') == line.number
  call('SET', KEYS[8], same and known or line.number .. '|' .. who, 'EX', '2592000')
end

-- Sends were counted when they were decided.
if line and news and ARGV[6] == '1' then
  line.volume = window_add(line.volume, limits_of(line)[7], limits_of(line)[8], now, 1)
  save(line)
end
for _, wait in ipairs(waits) do changes[#changes + 1] = wait end
return changes
