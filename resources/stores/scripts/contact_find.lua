-- The contact with an address.
-- KEYS  1 any key of the account, for its place in a cluster
-- ARGV  1 prefix of the account's keys   2 field   3 address
-- Returns {key, the contact as field, text, ...}; nothing if there is no such contact.
local key = find(ARGV[1], ARGV[2], ARGV[3])
if not key then return false end
return {key, redis.call('HGETALL', ARGV[1] .. 'contact:' .. key)}
