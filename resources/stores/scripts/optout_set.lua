-- Opt an address out.
-- KEYS  1 the account's opt-outs (hash)
-- ARGV  1 address   2 the opt-out, JSON   3 opt-outs that the account may have
-- Returns 1, or 0 if it would be one too many.
local is_new = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0
if is_new and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
