-- Add to an integer of an account; a key that does not exist starts at 0 and counts against the quota. Keeps the expiry.
-- KEYS  1 the value (string)   2 the account's keys (sorted set: name -> expiry in ms, or +inf)   3 warned (marker)
-- ARGV  1 name   2 amount, an integer of 64 bits   3 hard limit   4 soft limit
-- Returns {stored 1|0, warn, value as text}, or {-1, 0, why} when the value or the sum is no integer of 64 bits.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local warn = 0
local new = redis.call('EXISTS', KEYS[1]) == 0
if new then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('ZREM', KEYS[2], ARGV[1])
  local count = redis.call('ZCARD', KEYS[2])
  if count >= tonumber(ARGV[3]) then
    if redis.call('SET', KEYS[3] .. ':hard', 1, 'NX', 'EX', 3600) then warn = 2 end
    return {0, warn, ''}
  end
  if count + 1 > tonumber(ARGV[4]) and redis.call('SET', KEYS[3], 1, 'NX', 'EX', 3600) then warn = 1 end
end
local result = redis.pcall('INCRBY', KEYS[1], ARGV[2])
if type(result) == 'table' and result.err then return {-1, 0, result.err} end
if new then redis.call('ZADD', KEYS[2], '+inf', ARGV[1]) end
return {1, warn, redis.call('GET', KEYS[1])}   -- as text: a Lua number has only 53 bits
