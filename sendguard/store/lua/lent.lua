-- What is lent of lines, called back where a line may not be sent on as it was: every process that holds some is told, and
-- who told of it waits until each of them has said that it holds none any more, or cannot use it any more.

-- Call back what is lent of a line. key: of the stream that the processes listen to. paced: whether the line's bucket is
-- the one that the tokens are of.
function revoke(line, key, paced)
  local some = false
  line.lent = line.lent:gsub(LENT, function(process, tokens, ends, _, mark)
    if tonumber(ends) <= now then return '' end
    some = true
    return process .. ',' .. (paced and tokens or '0') .. ',' .. ends .. ',1,' .. mark .. ';'
  end)
  if some then call('XADD', key, 'MAXLEN', '~', '10000', '*', 'line', line.number) end
end

-- How long what was called back of a line can still be used, at the most.
local function usable(line)
  local last = now
  for _, _, ends, revoked in line.lent:gmatch(LENT) do
    if revoked == '1' then last = math.max(last, tonumber(ends)) end
  end
  return last - now
end

local waits = {}

-- Have the caller wait until nothing that was called back of a line can be used.
local function wait_for(line)
  if line and line.lent ~= '' and usable(line) > 0 then
    waits[#waits + 1] = '!' .. line.number .. '|' .. int(usable(line))
  end
end

-- Call back what is lent of a recipient's lines. mine: a line that the caller has read, and will save itself.
local function revoke_all(recipient, key, mine)
  for _, number in ipairs(recipient.lines) do
    local line = mine and mine.number == number and mine or read_line(number)
    if line and line.lent ~= '' then
      revoke(line, key, true)
      save(line)
    end
  end
end

local function wait_for_all(recipient)
  for _, number in ipairs(recipient.lines) do wait_for(read_line(number)) end
end
