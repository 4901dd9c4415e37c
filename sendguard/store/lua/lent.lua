-- What is lent of lines, called back where a line may not be sent on as it was: each process that holds some is told, and
-- who told of it waits until each of them has said that it holds none any more, or cannot use it any more.

-- Call back what is lent of a line. key: of the stream that the processes listen to. paced: whether the line's bucket is
-- still the one that the tokens are of.
local function revoke(line, key, paced)
  local holders = {}
  for _, loan in ipairs(loans_of(line)) do
    loan.tokens = paced and loan.tokens or 0
    if loan.ends > now then
      loan.revoked = true
      holders[#holders + 1] = loan.process
    end
  end
  if #holders > 0 then
    call('XADD', key, 'MAXLEN', '~', '10000', '*', 'line', line.number, 'processes', table.concat(holders, ','))
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

-- Until when what was called back of a line can be used, at the latest; nil where nothing is left of it.
local function usable_until(line)
  local last = nil
  if line.lent ~= '' or line.loans then
    for _, loan in ipairs(loans_of(line)) do
      if loan.revoked then last = max(last or 0, loan.ends) end
    end
  end
  return last
end
