-- All groups of an account.
-- KEYS  1 all groups (set of keys)
-- ARGV  1 prefix of the account's keys
-- Returns key, {field, text, ...}, key, {field, text, ...} ...
local result = {}
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  table.insert(result, key)
  table.insert(result, redis.call('HGETALL', ARGV[1] .. 'group:' .. key))
end
return result
