#!lua flags=allow-oom
-- Give a partition back, if it is ours; its epoch stays.
-- KEYS  1 its owner (string)   ARGV  1 the owner that we are
-- Returns 1 if it was ours.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], string.match(ARGV[1], '^%d+'))
return 1
