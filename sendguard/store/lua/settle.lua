-- Settle what became of a send: give back what it took, or learn of its recipient. A conversation that it was to start,
-- and that nothing else was sent in, has not begun.
--
-- KEYS: 16 recipient; 17 settled (once for each decision); 18 remembered answer: that of a send
--   that is given back is forgotten, so that a retry with the same idempotency key is decided, and pays, anew;
--   19 revocations (stream).
-- ARGV: 18 line; 19 at; 20 new conversation; 21 tat; 22 cost; 23 '1' to give back; 24 '1' if the recipient has opted
--   out; 25 how long the pair is closed, '' if it is not.
-- Reply: always 1.
-- Cost: 4 to 8 commands; where the recipient has opted out or the pair is closed, one HGET more for each of their
--   lines, and 3 commands for each of those of which something is lent.

local recipient = read_recipient(KEYS[16])
if not call('SET', KEYS[17], '1', 'NX', 'EX', '86400') then return 1 end
local line, at = read_line(ARGV[18]), tonumber(ARGV[19])
local window = recipient.windows[ARGV[18]]

if ARGV[23] == '1' and line then
  unspend(line, at, ARGV[20] == '1', tonumber(ARGV[21]), tonumber(ARGV[22]))
  save(line)
  local left = window and window_remove(window, limits_of(line)[12], at, 1)
  if left == '' and window ~= '' and ARGV[20] == '1' and ARGV[25] == '' then
    remove_conversation(recipient, ARGV[18])
    left = nil
  end
  window = left
  call('DEL', KEYS[18])
end
if ARGV[24] == '1' and recipient.consent >= 0 then recipient.consent = -now end
if ARGV[25] ~= '' and line and window then
  local limit, per = limits_of(line)[11], limits_of(line)[12]
  if limit < NEVER then
    window = window_add(window, limit, per, now + tonumber(ARGV[25]) - per, limit)
  end
end
if window then recipient.windows[ARGV[18]] = window end
write_recipient(KEYS[16], recipient)
if ARGV[24] == '1' or ARGV[25] ~= '' then revoke_all(recipient, KEYS[19]) end
return 1
