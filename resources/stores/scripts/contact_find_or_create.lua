-- The contact with an address; if missing, a new one.
-- KEYS  1 the new contact (hash)
-- ARGV  1 prefix of the account's keys   2 field   3 address   4 the new contact's key
--       5 the changes that make it, JSON   6 contacts that the account may have
-- Returns {created 1|0, key, the contact as field, text, ...}.
local key = find(ARGV[1], ARGV[2], ARGV[3])
if key then return {0, key, redis.call('HGETALL', ARGV[1] .. 'contact:' .. key)} end
local contact = write(ARGV[1], KEYS[1], ARGV[4], cjson.decode(ARGV[5]), tonumber(ARGV[6]))
if contact.err then return contact end
return {1, ARGV[4], contact}
