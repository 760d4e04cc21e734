-- Give a group another name and query.
-- KEYS  1 the group (hash)   2 the groups of the new name (set of keys)
-- ARGV  1 its key   2 new name   3 smart 1|0   4 query   5 prefix of the account's keys
-- Returns the group as field, text, ...; nothing if it does not exist.
local old = redis.call('HGET', KEYS[1], 'name')
if not old then return false end
redis.call('SCARD', KEYS[2]) -- refused if it is no set, before anything is written
redis.call('SREM', ARGV[5] .. 'groupname:' .. old, ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'name', ARGV[2])
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'query', ARGV[4])
else
  redis.call('HDEL', KEYS[1], 'query')
end
return redis.call('HGETALL', KEYS[1])
