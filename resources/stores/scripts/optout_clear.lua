-- Opt an address in again.
-- KEYS  1 opt-outs (hash)   ARGV  1 its name
-- Returns 1 if it was out.
return redis.call('HDEL', KEYS[1], ARGV[1])
