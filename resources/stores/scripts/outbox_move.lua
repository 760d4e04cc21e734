-- Move messages of a channel from one outbox to the end of another, oldest first, with how often
-- they were handed out.
-- KEYS  1 the outbox (stream)   2 its bytes (string)   3 the newest number handed out in order
--       4 how often others were handed out (hash)
--       5 to 8 the same of the other one   9 its last delivery number (string)
-- ARGV  1 messages at most
-- Returns how many were moved.
local page = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])
if #page == 0 then return 0 end
local handed, from, to = integer(redis.call('GET', KEYS[3])), integer(redis.call('GET', KEYS[2])),
  integer(redis.call('GET', KEYS[6]))
local number = integer(redis.call('GET', KEYS[9]))
redis.call('HLEN', KEYS[4])
redis.call('HLEN', KEYS[8])
if redis.call('EXISTS', KEYS[5]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[5])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      number = math.max(number, tonumber(string.match(info[i + 1], '^%d+')))
    end
  end
end
for _, entry in ipairs(page) do
  local before, message = string.match(entry[1], '^%d+'), entry[2][2]
  local times = redis.call('HGET', KEYS[4], before)
  if not times and tonumber(before) <= handed then times = 1 end
  number = number + 1
  local text = string.format('%.0f', number)
  redis.call('XADD', KEYS[5], text .. '-1', 'm', message)
  if times then redis.call('HSET', KEYS[8], text, times) end
  redis.call('XDEL', KEYS[1], entry[1])
  redis.call('HDEL', KEYS[4], before)
  from, to = from - #message, to + #message
end
redis.call('SET', KEYS[2], string.format('%.0f', math.max(from, 0)))
redis.call('SET', KEYS[6], string.format('%.0f', to))
redis.call('SET', KEYS[9], string.format('%.0f', number))
return #page
