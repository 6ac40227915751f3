-- Replace the estimate by the truth. KEYS: the reservation. Asked: actual, by measure.

local reservation, actual = KEYS[1], asked.actual
local record, settlement = remembered(call('GET', reservation)), nil
if not record then
  -- Whoever makes it later is answered that it is void.
  settlement = failure('unknown')
  remember(reservation, { now, now, failure('void'), false, settlement }, now)
  return answer(settlement, true)
end
local expires, at, granted, booked
expires, at, granted, booked, settlement = unpack(record, 1, 5)
if settlement then
  return answer(settlement)
end

local late, keys = expires <= now, {}
for first = 1, #booked, SIZE do
  keys[#keys + 1] = booked[first + 2]
end
local found = call('MGET', unpack(keys))

-- Whatever can fail is computed for every bucket before the first one is written.
local numbers, place, size = {}, 0, 0
for first = 1, #booked, SIZE do
  local kind, measure, _, amount, limit, burst, period, ends = unpack(booked, first, first + 7)
  local more = (actual[measure] or amount) - amount
  local whole, part = 0, 0
  place = place + 1
  if kind == 'rolling' then
    whole, part = missing(found[place], limit)
    if more > 0 then
      local debt, debt_part = ratio(more, period, limit)
      whole, part = plus(whole, part, debt, debt_part, limit)
      if whole > MOST - now then
        return failure('too long')
      end
    elseif more < 0 and at + period > now then
      local credit, credit_part = ratio(-more, period, limit)
      whole, part = minus(whole, part, credit, credit_part, limit)
      if whole < 0 then
        whole, part = 0, 0
      end
    end
  elseif kind ~= 'lease' then
    -- A counter that is gone held this reservation at least.
    whole = tonumber(found[place] or amount)
    if more > MOST - whole then
      return failure('too much')
    end
    whole = whole + more
    if whole < 0 then
      whole = 0
    end
  end
  numbers[size + 1], numbers[size + 2], numbers[size + 3], numbers[size + 4] = limit, burst, period, ends
  numbers[size + 5], numbers[size + 6] = whole, part
  size = size + 6
end

size = 0
for first = 1, #booked, SIZE do
  local kind, key, whole, part = booked[first], booked[first + 2], numbers[size + 5], numbers[size + 6]
  if kind == 'rolling' then
    write_rolling(key, whole, part)
  elseif kind == 'window' then
    call('SET', key, whole, 'XX', 'KEEPTTL')
  elseif kind == 'lifetime' then
    if whole > 0 then
      call('SET', key, whole)
    else
      call('DEL', key)
    end
  else
    for number = 1, booked[first + 3] do
      call('ZREM', key, member(reservation, number))
    end
    numbers[size + 5] = taken(key)
  end
  size = size + 6
end
settlement = cmsgpack.pack({ 'settled', now, late, numbers })
remember(reservation, { now, at, granted, false, settlement }, now)
return answer(settlement, true)
