-- Count the bytes of some of an account's keys, stored before bytes were counted. Those already
-- counted stay as they are.
-- KEYS  1 the account's keys (sorted set)   2 sizes (hash)   3 bytes of all (string)
--       4... the values (strings)
-- ARGV  1... their names, in the same order
-- Returns how many were counted.
redis.call('HLEN', KEYS[2])
integer(redis.call('GET', KEYS[3]))
local lengths = {}
for place in ipairs(ARGV) do lengths[place] = redis.call('STRLEN', KEYS[3 + place]) end
local counted, bytes = 0, 0
for place, name in ipairs(ARGV) do
  local size = #name + lengths[place]
  local is_there = lengths[place] > 0 and redis.call('ZSCORE', KEYS[1], name)
  if is_there and redis.call('HSETNX', KEYS[2], name, size) == 1 then
    counted, bytes = counted + 1, bytes + size
  end
end
if bytes > 0 then redis.call('INCRBY', KEYS[3], bytes) end
return counted
