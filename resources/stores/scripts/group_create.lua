-- The group of a name; if missing, a new one.
-- KEYS  1 the groups of that name (set of keys)   2 the new group (hash)
--       3 all groups (set of keys)
-- ARGV  1 the new group's key   2 name   3 created_at   4 prefix of the account's keys
--       5 create 1|0   6 groups that the account may have
-- Returns {created 1|0, key, the group as field, text, ...}; {-1} if several have the name, {-2} if
-- there would be too many groups, {-3} if there is none and none is to be created.
local found = redis.call('SMEMBERS', KEYS[1])
if #found > 1 then return {-1} end
if #found == 1 then
  return {0, found[1], redis.call('HGETALL', ARGV[4] .. 'group:' .. found[1])}
end
if ARGV[5] == '0' then return {-3} end
if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[6]) then return {-2} end
redis.call('HLEN', KEYS[2]) -- refused if it is no hash, before anything is written
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[2], 'name', ARGV[2], 'created_at', ARGV[3])
return {1, ARGV[1], redis.call('HGETALL', KEYS[2])}
