-- Add to an integer of an account; a key that does not exist starts at 0 and counts against the
-- quota. Keeps the expiry.
-- KEYS  as in _kv.lua
-- ARGV  1 name   2 amount, an integer of 64 bits   3 hard limit   4 soft limit   5 bytes of all
-- Returns {1 stored | 0 too many keys | -1 too many bytes, warn, value as text}: see admit; or
-- {-2, 0, why} if the value or the sum is no integer of 64 bits. An integer that exists may always
-- be added to: it has 20 digits at most.
local code, warn, before, is_new = 1, 0, 0, redis.call('EXISTS', KEYS[1]) == 0
if is_new then
  local limits = {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])}
  code, warn, before = admit(ARGV[1], #ARGV[1] + #ARGV[2], milliseconds(), unpack(limits))
  if code < 1 then return {code, warn, ''} end
else
  before = noted_size(ARGV[1])
end
local result = redis.pcall('INCRBY', KEYS[1], ARGV[2])
if type(result) == 'table' and result.err then return {-2, 0, result.err} end
if is_new then redis.call('ZADD', KEYS[2], '+inf', ARGV[1]) end
resize(ARGV[1], #ARGV[1] + redis.call('STRLEN', KEYS[1]), before)
return {1, warn, redis.call('GET', KEYS[1])} -- as text: a Lua number has only 53 bits
