-- Some groups of an account, like SSCAN: a group may come twice.
-- KEYS  1 all groups (set of keys)
-- ARGV  1 prefix of the account's keys  2 cursor, "0" at first
-- Returns the next cursor ("0": these were the last), key, {field, text, ...}, key, ...
local page = redis.call('SSCAN', KEYS[1], ARGV[2], 'COUNT', 50)
local result = {page[1]}
for _, key in ipairs(page[2]) do
  table.insert(result, key)
  table.insert(result, redis.call('HGETALL', ARGV[1] .. 'group:' .. key))
end
return result
