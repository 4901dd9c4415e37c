-- Decide one send: which line may carry it, or why none may and when to ask again.
--
-- KEYS: 6 decisions (stream); 7 recipient; 8 remembered answer (there if one is asked for); 9 revocations (stream; there if
--   something is to be lent, or the send has left).
-- ARGV: 3 what is asked: kind, 'in_chat' for a send into a chat that lives on `from_number`, 'sent' for one that left from
--   there unasked and is only counted, or 'late' for one that was decided without the store, which moves no conversation|
--   line type ('' any, '1' iMessage, '2' RCS)|'1' to remember the answer|how long the caller would wait|'1' if an opt-out
--   binds|'1' if the decision is recorded. Those at the end may be left out: 4 decision id; 5 from_number or ''; 6 what to
--   lend, for the layer `lend`, '' for nothing, or '=' and the policy's overrides (number=limits; each) for a dry run, which
--   writes nothing; 7... lines not to start a conversation on.
-- Reply: allowed|line|reason|wait|status|health|new conversation|previous line|decision id|tat|cost|at|loan. On a denial,
--   wait is '' where waiting cannot help. An allowed decision with a wait is a slot that the caller holds: it asks again
--   then, with the same remembered answer, and learns whether the line may still be sent on.
-- Record, in the stream and as a dry run's reply: the first nine fields of the reply|kind|line type|recipient's digest|
--   what became of a remembered answer: '', 'repeated', 'confirmed' (a slot that has come) or 'void' (decided anew)|
--   now|the first 16 lines looked at, each number,why not,wait ('' where waiting cannot help); and so on.
-- Cost: 7 to 11 commands whatever the number of lines; one HGET more for each line excluded.

if ARGV[3] ~= request_text then read_request(ARGV[3]) end
from, order = ARGV[5] or '', ARGV[6] or ''
told, memory, considered, count, loan = '', '', '', 0, ''
dry = byte(order) == 61
if dry then
  dry_run(sub(order, 2))
  order = ''
end
local answer = decide()
if dry then return record() end
if recorded then call('XADD', KEYS[6], 'MAXLEN', '~', '10000', '*', 'decision', record()) end
return answer
