-- Delete a key of an account.
-- KEYS  1 the value (string)   2 the account's keys (sorted set)
-- ARGV  1 name
-- Returns 1 when the key existed, else 0.
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
