-- Rolling windows.
--
-- A window is a string: start of the newest entry (6 bytes, ms), total (4 bytes), then entries, oldest first, each its
-- latest event (6 bytes, ms, rounded up) and its count (3 bytes). An entry leaves `per` after its latest event, so
-- counting together errs to the safe side. '' is empty. So entry i starts at byte 11 + 9 i. LONGEST: beyond it all is
-- counted together, as records tell lengths in two bytes.

local LONGEST = 60000

local function pack_count(n)
  local c = n % 256
  n = (n - c) / 256
  local b = n % 256
  return char((n - b) / 256 % 256, b, c)
end

local function pack_total(n)
  local d = n % 256
  n = (n - d) / 256
  local c = n % 256
  n = (n - c) / 256
  local b = n % 256
  return char((n - b) / 256, b, c, d)
end

local packed_at, packed, packed_ms

-- A time in milliseconds, rounded up: packed, and as a number.
local function stamp(at)
  if at ~= packed_at then
    local ms = ceil(at / 1000)
    local low = ms % 16777216
    packed, packed_ms, packed_at = pack_count((ms - low) / 16777216) .. pack_count(low), ms, at
  end
  return packed, packed_ms
end

local function time_at(w, i)
  local a, b, c, d, e, f = byte(w, i, i + 5)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

local function count_at(w, i)
  local a, b, c = byte(w, i + 6, i + 8)
  return (a * 256 + b) * 256 + c
end

local function total_of(w)
  if w == '' then return 0 end
  local a, b, c, d = byte(w, 7, 10)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function window_trim(w, per)
  local i, total, size = 11, nil, #w
  while i < size and time_at(w, i) * 1000 + per <= now do
    total = (total or total_of(w)) - count_at(w, i)
    i = i + 9
  end
  if i == 11 then return w end
  if i > size then return '' end
  return sub(w, 1, 6) .. pack_total(total) .. sub(w, i)
end

-- When the window next has room for one more: 0 or a past time if it has room now.
local function window_free_at(w, limit, per)
  if w == '' and limit > 0 then return 0 end
  local total = total_of(w)
  if total < limit then return 0 end
  local i = 11
  while limit > 0 and i <= #w do
    total = total - count_at(w, i)
    if total < limit then return time_at(w, i) * 1000 + per end
    i = i + 9
  end
  return NEVER
end

-- Count n events at a time. One that is older than the newest entry counts with that, which keeps the entries in order.
local function window_add(w, limit, per, at, n)
  w = window_trim(w, per)
  local new, ms = stamp(at)
  if w == '' then return new .. pack_total(n) .. new .. pack_count(n) end
  local last = #w - 8
  local a, b, c, d, e, f, g, h, i, j = byte(w, 1, 10)
  local started, total = ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f, ((g * 256 + h) * 256 + i) * 256 + j
  a, b, c, d, e, f, g, h, i = byte(w, last, last + 8)
  local newest, count = ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f, (g * 256 + h) * 256 + i
  if ms < newest then ms, new = newest, sub(w, last, last + 5) end
  if ms - started <= (limit > 64 and per / 64000 or 0) or last > LONGEST then
    return sub(w, 1, 6) .. pack_total(total + n) .. sub(w, 11, last - 1) .. new .. pack_count(count + n)
  end
  return new .. pack_total(total + n) .. sub(w, 11) .. new .. pack_count(n)
end

-- Take back n events that were counted at a time, as far as they still count.
local function window_remove(w, per, at, n)
  local ms, i, taken = ceil(at / 1000), 11, 0
  if ms * 1000 + per <= now then return w end
  while i <= #w and time_at(w, i) < ms do i = i + 9 end
  local kept = sub(w, 11, i - 1)
  while i <= #w do
    local count = count_at(w, i)
    local out = min(count, n - taken)
    if out < count then kept = kept .. sub(w, i, i + 5) .. pack_count(count - out) end
    taken, i = taken + out, i + 9
  end
  if kept == '' then return '' end
  local newest = sub(kept, -9, -4)
  return (newest == sub(w, -9, -4) and sub(w, 1, 6) or newest) .. pack_total(total_of(w) - taken) .. kept
end
