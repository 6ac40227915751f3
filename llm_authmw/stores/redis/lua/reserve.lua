-- Book all claims or none. KEYS: the reservation. Asked: claims, ttl.

local reservation, claims = KEYS[1], asked.claims
local keys, outside = { reservation }, false
for first = 1, #claims, SIZE do
  local key, ends = claims[first + 2], 0
  if claims[first] == 'window' then
    key, ends = window(key, claims[first + 7])
    if not key then
      key, outside = reservation, true
    end
    claims[first + 2] = key
  end
  claims[first + 7] = ends
  keys[#keys + 1] = key
end
local found = call('MGET', unpack(keys))
local known = remembered(found[1])
if known then
  return answer(known[3])
end
if outside then
  return failure('outside')
end

-- What each bucket stands at, in the answer, and what it will stand at.
local numbers, refused, wholes, parts = {}, {}, {}, {}
local place, size = 0, 0
for first = 1, #claims, SIZE do
  local kind, _, key, amount, limit, burst, period, ends = unpack(claims, first, first + 7)
  local whole, part, after, after_part = 0, 0, 0, 0
  local fits = amount <= (burst > 0 and burst or limit)
  if kind == 'rolling' then
    whole, part = missing(found[place + 2], limit)
    if fits then
      local more, more_part = ratio(amount, period, limit)
      local room, room_part = ratio(burst, period, limit)
      room, room_part = minus(room, room_part, whole, part, limit)
      fits = room > more or (room == more and room_part >= more_part)
      if fits then
        after, after_part = plus(whole, part, more, more_part, limit)
        if after > MOST - now then
          return failure('too long')
        end
      end
    end
  else
    whole = kind == 'lease' and taken(key) or tonumber(found[place + 2] or 0)
    fits = fits and amount <= limit - whole
    after = whole + amount
    if fits and kind == 'lease' and amount > PLACES then
      return failure('too many')
    end
  end
  if not fits then
    refused[#refused + 1] = place
  end
  place = place + 1
  wholes[place], parts[place] = after, after_part
  numbers[size + 1], numbers[size + 2], numbers[size + 3], numbers[size + 4] = limit, burst, period, ends
  numbers[size + 5], numbers[size + 6] = whole, part
  size = size + 6
end
if #refused > 0 then
  return answer(cmsgpack.pack({ 'refused', now, false, numbers, refused }))
end

local expires = now + asked.ttl
place, size = 0, 0
for first = 1, #claims, SIZE do
  place = place + 1
  local kind, key, whole, part = claims[first], claims[first + 2], wholes[place], parts[place]
  if kind == 'rolling' then
    write_rolling(key, whole, part)
  elseif kind == 'window' and not found[place + 1] then
    -- A reservation lives for a day at most unless it is extended, and may be settled for another one.
    call('SET', key, whole, 'PX', milliseconds(claims[first + 7] - now + 2 * DAY))
  elseif kind ~= 'lease' then
    if whole > 0 then
      call('INCRBY', key, claims[first + 3])
    end
  else
    call('ZREMRANGEBYSCORE', key, '-inf', now)
    for number = 1, claims[first + 3] do
      call('ZADD', key, expires, member(reservation, number))
    end
    call('PEXPIRE', key, milliseconds(DAY)) -- none is longer, and each that is renewed puts it off
  end
  numbers[size + 5], numbers[size + 6] = whole, part
  size = size + 6
end
local granted = cmsgpack.pack({ 'granted', now, false, numbers })
remember(reservation, { expires, now, granted, claims }, expires)
return answer(granted, true)
