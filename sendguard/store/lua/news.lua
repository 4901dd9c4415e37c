-- What the scripts that take observations share. It follows the prelude in front of them.

-- True the first time that a webhook's event is seen within two hours; the API retries for half an hour.
local function first_time(key)
  call('HSET', KEYS[15], 'heard_at', NOW)
  return call('SET', key, '1', 'NX', 'EX', '7200') and true or false
end

-- An observation may not be dated ahead of our clock by more than the tolerance of a signature: it would outlast news.
local function observed(text) return text == '' and now or math.min(tonumber(text), now + 300000000) end

local changes = {}
local function changed(line, field, old, new, at)
  changes[#changes + 1] = table.concat({ line.number, field, old, new, int(at) }, '|')
end
