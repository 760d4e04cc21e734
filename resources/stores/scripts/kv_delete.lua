-- Delete a key of an account.
-- KEYS  as in _kv.lua, 1 to 4
-- ARGV  1 name
-- Returns 1 if the key existed, else 0.
local before = noted_size(ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
resize(ARGV[1], 0, before)
return redis.call('DEL', KEYS[1])
