-- Settle what became of a send: give back what it took, or learn of its recipient. A conversation that it was to start,
-- and that nothing else was sent in, has not begun.
--
-- KEYS: 6 recipient; 7 settled (once for each decision); 8 remembered answer: that of a send
--   that is given back is forgotten, so that a retry with the same idempotency key is decided, and pays, anew;
--   9 revocations (stream).
-- ARGV: 3 line; 4 at; 5 new conversation; 6 tat; 7 cost; 8 '1' to give back; 9 '1' if the recipient has opted
--   out; 10 how long the pair is closed, '' if it is not.
-- Reply: always 1.
-- Cost: 4 to 8 commands; where the recipient has opted out or the pair is closed, one HGET more for each of their
--   lines, and 3 commands for each of those of which something is lent.

local recipient = read_recipient(KEYS[6])
if not call('SET', KEYS[7], '1', 'NX', 'EX', '86400') then return 1 end
local line, at = read_line(ARGV[3]), tonumber(ARGV[4])
local window = recipient.windows[ARGV[3]]

if ARGV[8] == '1' and line then
  unspend(line, at, ARGV[5] == '1', tonumber(ARGV[6]), tonumber(ARGV[7]))
  save(line)
  local left = window and window_remove(window, limits_of(line)[12], at, 1)
  if left == '' and window ~= '' and ARGV[5] == '1' and ARGV[10] == '' then
    remove_conversation(recipient, ARGV[3])
    left = nil
  end
  window = left
  call('DEL', KEYS[8])
end
if ARGV[9] == '1' and recipient.consent >= 0 then recipient.consent = -now end
if ARGV[10] ~= '' and line and window then
  local limit, per = limits_of(line)[11], limits_of(line)[12]
  if limit < NEVER then
    window = window_add(window, limit, per, now + tonumber(ARGV[10]) - per, limit)
  end
end
if window then recipient.windows[ARGV[3]] = window end
write_recipient(KEYS[6], recipient)
if ARGV[9] == '1' or ARGV[10] ~= '' then revoke_all(recipient, KEYS[9]) end
return 1
