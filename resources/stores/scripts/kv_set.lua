-- Store a value under a key of an account, within the account's quota of keys and bytes.
-- KEYS  as in _kv.lua
-- ARGV  1 name   2 value, JSON text   3 lifetime in seconds, or ''
--       4 hard limit   5 soft limit   6 bytes of all
-- Returns {1 stored | 0 too many keys | -1 too many bytes, warn}: see admit.
local now, size = milliseconds(), #ARGV[1] + #ARGV[2]
local limits = {tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])}
local code, warn, before = admit(ARGV[1], size, now, unpack(limits))
if code < 1 then return {code, warn} end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('ZADD', KEYS[2], '+inf', ARGV[1])
else
  local expiry = now + tonumber(ARGV[3]) * 1000
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', expiry)
  redis.call('ZADD', KEYS[2], expiry, ARGV[1])
end
resize(ARGV[1], size, before)
return {1, warn}
