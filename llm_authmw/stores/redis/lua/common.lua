-- What the steps share. Every moment is whole microseconds since 1970, and every number a whole one of at most 2^53: a double
-- holds those exactly, and commands get all 16 digits of them. What could pass that is compared before it is computed.

local call, text = redis.call, string.format
local MOST = 9007199254740992
local DAY = 86400000000
local SLACK = 60000000 -- that a key outlives what it says: a clock that is set back a little still finds it
local PLACES = 1000 -- of a lease bucket that one claim takes at most: each is a member of its ordered set
local SIZE = 8 -- numbers and texts of one claim: kind, measure, key, amount, limit, burst, period, windows or the end of one

local asked = cmsgpack.unpack(ARGV[1])
local now = asked.now -- tests bring their own time
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function milliseconds(duration)
  duration = duration + SLACK
  return (duration - duration % 1000) / 1000
end

-- Return the whole part and the rest of a * b / m. A whole part of 2^53 or more is not exact, but no less than that.
local function ratio(a, b, m)
  local rest = b % m
  local whole = a * ((b - rest) / m)
  local product = a * rest
  if product < MOST then
    local left = product % m
    return whole + (product - left) / m, left
  end
  -- Long multiplication, from the highest binary digit of `a`: twice what there is, and once more `rest` where the digit is 1.
  local quotient, left, digit = 0, 0, MOST
  while digit >= 1 do
    quotient = quotient * 2
    if left >= m - left then
      quotient, left = quotient + 1, left - (m - left)
    else
      left = left + left
    end
    if a >= digit then
      a = a - digit
      if left >= m - rest then
        quotient, left = quotient + 1, left - (m - rest)
      else
        left = left + rest
      end
    end
    digit = digit / 2
  end
  return whole + quotient, left
end

-- Sums and differences of a whole number and a part of one, counted in 1 / m.
local function plus(whole, part, more, more_part, m)
  if part >= m - more_part then
    return whole + more + 1, part - (m - more_part)
  end
  return whole + more, part + more_part
end

local function minus(whole, part, less, less_part, m)
  if part >= less_part then
    return whole - less, part - less_part
  end
  return whole - less - 1, part + (m - less_part)
end

-- What is missing from a rolling bucket, see llm_authmw/ledger/gcra.py: in microseconds, and a part of one in 1 / limit.
local function missing(found, limit)
  if not found then
    return 0, 0
  end
  local moment, part = cmsgpack.unpack(found)
  if moment < now then
    return 0, 0
  end
  -- A part is of the limit that it was counted in; under a lower one it is less than a microsecond all the same.
  return moment - now, part < limit and part or limit - 1
end

local function write_rolling(key, whole, part)
  call('SET', key, cmsgpack.pack(now + whole, part), 'PX', milliseconds(whole))
end

-- How many places of a lease bucket are taken: those that have not come to their end.
local function taken(key)
  return call('ZCOUNT', key, now + 1, '+inf')
end

local function member(reservation, place)
  return place == 1 and reservation or reservation .. '\t' .. place -- which no id holds
end

-- Where a window bucket is counted, and the end of its window; nothing where the time is in none of its windows.
local function window(key, spans)
  for place = 1, #spans do
    local start, ends = spans[place][1], spans[place][2]
    if start <= now and now < ends then
      return key .. text('\t%.0f-%.0f', start, ends), ends
    end
  end
end

-- A ledger that must not be lost counts its writes. Fewer than somebody has seen, or none: it has lost some.
local mark_key, mark = asked.mark and asked.prefix .. 'mark', nil

local function answer(packed, wrote)
  if not mark_key then
    return packed
  end
  return { packed, wrote and call('INCR', mark_key) or mark }
end

local function failure(status)
  return cmsgpack.pack({ status, now })
end

-- What is kept of a reservation: when it expires, or was settled; when it was made; the answer to that; what was booked, until
-- it is settled; the answer to the settlement.
local function remembered(found)
  if not found then
    return nil
  end
  local record = cmsgpack.unpack(found)
  return record[1] + DAY > now and record or nil
end

local function remember(key, record, ends)
  call('SET', key, cmsgpack.pack(record), 'PX', milliseconds(ends - now + DAY))
end

if mark_key and not asked.acknowledge then
  mark = tonumber(call('GET', mark_key) or -1)
  if mark < asked.mark then
    call('DEL', mark_key) -- so that those notice who had seen less
    return failure('lost')
  end
end
