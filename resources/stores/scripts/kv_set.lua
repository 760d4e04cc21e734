-- Store a value under a key of an account, within the account's quota of keys.
-- KEYS  1 the value (string)   2 the account's keys (sorted set: name -> expiry in ms, or +inf)   3 warned (marker)
-- ARGV  1 name   2 value, JSON text   3 lifetime in seconds, or ''   4 hard limit   5 soft limit
-- Returns {stored 1|0, warn}: warn is 1 when the soft limit was passed, 2 when the hard limit refused the key; each is said
-- once an hour at most, so that a full account does not flood its apps' logs.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local warn = 0
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)   -- expired keys are given back
  redis.call('ZREM', KEYS[2], ARGV[1])
  local count = redis.call('ZCARD', KEYS[2])
  if count >= tonumber(ARGV[4]) then
    if redis.call('SET', KEYS[3] .. ':hard', 1, 'NX', 'EX', 3600) then warn = 2 end
    return {0, warn}
  end
  if count + 1 > tonumber(ARGV[5]) and redis.call('SET', KEYS[3], 1, 'NX', 'EX', 3600) then warn = 1 end
end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('ZADD', KEYS[2], '+inf', ARGV[1])
else
  local expiry = now + tonumber(ARGV[3]) * 1000
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', expiry)
  redis.call('ZADD', KEYS[2], expiry, ARGV[1])
end
return {1, warn}
