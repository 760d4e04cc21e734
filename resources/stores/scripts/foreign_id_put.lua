-- Note what another system calls a message of ours. Drop old names, and the oldest beyond a bound.
-- KEYS  1 their name to ours (hash)   2 when each was noted (sorted set)
-- ARGV  1 their name   2 ours   3 now   4 what is older is dropped   5 how many are kept
--       6 seconds until all are dropped if no more come
redis.call('HLEN', KEYS[1]) -- refused if it is no hash, before anything is written
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[4], 'LIMIT', 0, 100)
for _, name in ipairs(gone) do
  redis.call('ZREM', KEYS[2], name)
  redis.call('HDEL', KEYS[1], name)
end
local more = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[5])
if more > 0 then
  gone = redis.call('ZPOPMIN', KEYS[2], math.min(more, 100))
  for i = 1, #gone, 2 do redis.call('HDEL', KEYS[1], gone[i]) end
end
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
