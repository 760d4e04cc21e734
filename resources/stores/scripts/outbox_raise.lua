-- Have the delivery numbers of an outbox go on after one that its server has seen: the store may
-- have gone back in time.
-- KEYS  1 the last delivery number (string)   ARGV  1 the number
if integer(redis.call('GET', KEYS[1])) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
end
