-- Recipients: which lines their conversations live on, and whether they have opted out.
--
-- A record: consent, then for each line that a conversation lives on, the current one first, its number and the window
-- of the pair. consent: 0 nothing heard; positive, when they last wrote; negative, when they opted out. Of more than
-- eight, only those are kept whose windows still count something.

local function read_recipient(key)
  local raw = call('GET', key)
  local lines, windows = {}, {}
  if not raw then return { consent = 0, lines = lines, windows = windows } end
  local consent, at = raw:match('^([^|]*)|()')
  while at <= #raw do
    local number, length, from = raw:match('^([^:]*):(%d+):()', at)
    at = from + length
    lines[#lines + 1], windows[number] = number, raw:sub(from, at - 1)
  end
  return { consent = tonumber(consent) or 0, lines = lines, windows = windows }
end

local function write_recipient(key, recipient)
  local text = recipient.consent == 0 and '|' or int(recipient.consent) .. '|'
  for i, number in ipairs(recipient.lines) do
    local window = recipient.windows[number]
    if i > 8 then window = window_trim(window, limits_of({ number = number })[12]) end
    if i <= 8 or window ~= '' then text = text .. number .. ':' .. #window .. ':' .. window end
  end
  call('SET', key, text)
end

-- Note that a conversation lives on a line; `current` makes it the one that later sends go to.
local function add_conversation(recipient, number, current)
  local lines = recipient.lines
  if not recipient.windows[number] then
    recipient.windows[number] = ''
    table.insert(lines, math.min(#lines + 1, 2), number)
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
