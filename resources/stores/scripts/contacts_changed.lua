-- What has changed among an account's contacts after a change number.
-- KEYS  1 the account's changed contacts (sorted set by number)
-- ARGV  1 prefix of the account's keys   2 the number   3 contacts to return at most
--       4 bytes of all, after which no more are returned
-- Returns {epoch, the newest number, how many contacts changed after the given one,
--          {key, number, {field, text, ...}, ...}}, the last by number.
-- The epoch names this history of numbers: another store, or one that was emptied, has another one.
local epoch = redis.call('GET', ARGV[1] .. 'contacts:epoch')
local newest = integer(redis.call('GET', ARGV[1] .. 'contacts:changes'))
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) > newest then
  -- Another program has set the number back: what is written now would count as read.
  error({err = 'ERR ' .. ARGV[1] .. 'contacts:changes is ' .. newest ..
               ', less than the number of the last change, ' .. last})
end
local after = '(' .. ARGV[2]
local flat = redis.call('ZRANGE', KEYS[1], after, '+inf', 'BYSCORE',
                        'LIMIT', 0, ARGV[3], 'WITHSCORES')
local left = 0
local found = {}
local size, most = 0, tonumber(ARGV[4])
if #flat > 0 then
  left = redis.call('ZCOUNT', KEYS[1], after, '+inf')
  for i = 1, #flat, 2 do
    table.insert(found, flat[i])
    table.insert(found, flat[i + 1])
    local contact = redis.pcall('HGETALL', ARGV[1] .. 'contact:' .. flat[i])
    if contact.err then contact = {} end -- another program has overwritten it
    table.insert(found, contact)
    for j = 2, #contact, 2 do size = size + #contact[j] end
    if size >= most then break end
  end
end
if not epoch then
  local now = redis.call('TIME')
  epoch = now[1] .. '.' .. now[2]
  redis.call('SET', ARGV[1] .. 'contacts:epoch', epoch)
end
return {epoch, newest, left, found}
