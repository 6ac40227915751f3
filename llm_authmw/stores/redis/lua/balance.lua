-- What buckets stand at; of none, whether the ledger is there. KEYS: one of the ledger's, for its slot. Asked: claims, whose amounts are of no matter.

local claims, keys = asked.claims or {}, {}
for first = 1, #claims, SIZE do
  local key, ends = claims[first + 2], 0
  if claims[first] == 'window' then
    key, ends = window(key, claims[first + 7])
    if not key then
      return failure('outside')
    end
  end
  claims[first + 7] = ends
  keys[#keys + 1] = key
end
local found = #keys > 0 and call('MGET', unpack(keys)) or {}
local numbers, place, size = {}, 0, 0
for first = 1, #claims, SIZE do
  local kind, _, _, _, limit, burst, period, ends = unpack(claims, first, first + 7)
  local whole, part = 0, 0
  place = place + 1
  if kind == 'rolling' then
    whole, part = missing(found[place], limit)
  elseif kind == 'lease' then
    whole = taken(keys[place])
  else
    whole = tonumber(found[place] or 0)
  end
  numbers[size + 1], numbers[size + 2], numbers[size + 3], numbers[size + 4] = limit, burst, period, ends
  numbers[size + 5], numbers[size + 6] = whole, part
  size = size + 6
end
return answer(cmsgpack.pack({ 'balance', now, false, numbers }))
