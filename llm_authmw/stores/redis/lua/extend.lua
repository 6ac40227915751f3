-- Let those that are held expire later. KEYS: the reservations. Asked: ttl. The answer has a 1 for each that is held, else a 0.

local held, later, changed = {}, now + asked.ttl, false
for place, found in ipairs(call('MGET', unpack(KEYS))) do
  local record = remembered(found)
  local booked = record and record[1] > now and record[4]
  held[place] = booked and 1 or 0
  if booked and record[1] < later then
    for first = 1, #booked, SIZE do
      if booked[first] == 'lease' then
        for number = 1, booked[first + 3] do
          call('ZADD', booked[first + 2], later, member(KEYS[place], number))
        end
        call('PEXPIRE', booked[first + 2], milliseconds(DAY))
      end
    end
    record[1] = later
    remember(KEYS[place], record, later)
    changed = true
  end
end
return answer(cmsgpack.pack({ 'extended', now, false, held }), changed)
