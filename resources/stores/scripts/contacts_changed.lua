-- What has changed among an account's contacts after a change number.
-- KEYS  1 the account's changed contacts (sorted set by number)
-- ARGV  1 prefix of the account's keys   2 the number   3 contacts to return at most
-- Returns {epoch, the newest number, how many contacts changed after the given one,
--          {key, number, {field, text, ...}, ...}}, the last by number.
-- The epoch names this history of numbers: another store, or one that was emptied, has another one.
local epoch = redis.call('GET', ARGV[1] .. 'contacts:epoch')
local newest = integer(redis.call('GET', ARGV[1] .. 'contacts:changes'))
local after = '(' .. ARGV[2]
local flat = redis.call('ZRANGE', KEYS[1], after, '+inf', 'BYSCORE',
                        'LIMIT', 0, ARGV[3], 'WITHSCORES')
local left = 0
local found = {}
if #flat > 0 then
  left = redis.call('ZCOUNT', KEYS[1], after, '+inf')
  for i = 1, #flat, 2 do
    table.insert(found, flat[i])
    table.insert(found, flat[i + 1])
    table.insert(found, redis.call('HGETALL', ARGV[1] .. 'contact:' .. flat[i]))
  end
end
if not epoch then
  local now = redis.call('TIME')
  epoch = now[1] .. '.' .. now[2]
  redis.call('SET', ARGV[1] .. 'contacts:epoch', epoch)
end
return {epoch, newest, left, found}
