-- What the scripts that take observations share. Each of them begins with `hear`.

local changes, waits
local function hear() changes, waits = {}, {} end

-- True the first time that a webhook's event is seen within two hours; the API retries for half an hour. meta: a hash.
local function first_time(key, meta)
  call('HSET', meta, 'heard_at', NOW)
  return call('SET', key, '1', 'NX', 'EX', '7200') and true or false
end

-- An observation may not be dated ahead of our clock by more than the tolerance of a signature: it would outlast news.
local function observed(text) return text == '' and now or min(tonumber(text), now + 300000000) end

local function changed(line, field, old, new, at)
  changes[#changes + 1] = table.concat({ line.number, field, old, new, int(at) }, '|')
end

-- Have the caller wait until nothing that was called back of a line can be used.
local function wait_for(line)
  local last = line and usable_until(line)
  if last and last > now then waits[#waits + 1] = '!' .. line.number .. '|' .. int(last - now) end
end

local function wait_for_all(recipient)
  for _, number in ipairs(recipient.lines) do wait_for(read_line(number)) end
end
