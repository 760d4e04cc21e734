#!lua flags=allow-oom
-- Hold the store for all servers that share it, against one that wants it alone.
-- KEYS  1 the lease of the store   2 who took it last
-- ARGV  1 how the servers that share it are written there   2 milliseconds
-- Returns {1, ''}, or {0, who has it, milliseconds left}.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return {0, held, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
return {1, ''}
