-- Recipients: which lines their conversations live on, and whether they have opted out.
--
-- A record: consent and a '|', then for each line that a conversation lives on, the current one first, its number, a ':',
-- and the window of the pair, with its length in 2 bytes in front. consent: '' nothing heard; positive, when they last
-- wrote; negative, when they opted out. Of more than eight lines, only those are kept whose windows still count something.

local function read_recipient(key)
  local raw = call('GET', key)
  if not raw then return { consent = 0, lines = {}, windows = {} } end
  local at, size, consent = find(raw, '|', 1, true), #raw, 0
  if at > 1 then consent = tonumber(sub(raw, 1, at - 1)) end
  if at == size then return { consent = consent, lines = {}, windows = {} } end
  local lines, windows
  at = at + 1
  repeat
    local colon = find(raw, ':', at, true)
    local high, low = byte(raw, colon + 1, colon + 2)
    local number, ends = sub(raw, at, colon - 1), colon + 2 + high * 256 + low
    local window = sub(raw, colon + 3, ends)
    if lines then
      lines[#lines + 1], windows[number] = number, window
    else
      lines, windows = { number }, { [number] = window }
    end
    at = ends + 1
  until at > size
  return { consent = consent, lines = lines, windows = windows }
end

local function write_recipient(key, recipient)
  local text = recipient.consent == 0 and '|' or int(recipient.consent) .. '|'
  local lines, windows = recipient.lines, recipient.windows
  for i = 1, #lines do
    local number = lines[i]
    local window = windows[number]
    if i > 8 then window = window_trim(window, limits_of({ number = number })[12]) end
    if i <= 8 or window ~= '' then
      local low = #window % 256
      text = text .. number .. ':' .. char((#window - low) / 256, low) .. window
    end
  end
  call('SET', key, text)
end

-- Note that a conversation lives on a line; `current` makes it the one that later sends go to.
local function add_conversation(recipient, number, current)
  local lines = recipient.lines
  if not recipient.windows[number] then
    recipient.windows[number] = ''
    table.insert(lines, min(#lines + 1, 2), number)
  end
  if current and lines[1] ~= number then
    for i = 2, #lines do
      if lines[i] == number then table.remove(lines, i) break end
    end
    table.insert(lines, 1, number)
  end
end

local function remove_conversation(recipient, number)
  for i, each in ipairs(recipient.lines) do
    if each == number then table.remove(recipient.lines, i) break end
  end
  recipient.windows[number] = nil
end
