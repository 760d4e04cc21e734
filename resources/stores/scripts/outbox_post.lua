-- Put a message into a channel's outbox, once per id; its delivery number is also its place in the
-- stream.
-- KEYS  1 the last delivery number (string)   2 the outbox (stream)
--       3 bytes of messages in it (string)
--       4 ids that it has had (hash: id to "number checksum")   5 those before them (likewise)
--       6 the newest delivery number ever handed out in order (string)
-- ARGV  1 the message, JSON text   2 messages that may wait   3 bytes that may wait
--       4 the newest delivery number that the caller knows of: a store that was set back in time
--         goes on after it
--       5 '1' if it is handed out as soon as this is answered
--       6 a checksum of what the message says   7 seconds for which ids are remembered
--       8 ids in one hash at most   9 its id, or '' if it need not be remembered
--       10... further ids: if the outbox has had one of them, this message is not needed
-- Returns {delivery number}; {0} if too many messages wait, {-1} if too many bytes do;
--         {delivery number, checksum} of the message that it has had under one of the ids.
for i = 9, #ARGV do
  local id = ARGV[i]
  local had = id ~= '' and (redis.call('HGET', KEYS[4], id) or redis.call('HGET', KEYS[5], id))
  if had then
    local number, checksum = string.match(had, '^(%d+) (.*)$')
    return {tonumber(number), checksum}
  end
end
local size, waiting = #ARGV[1], redis.call('XLEN', KEYS[2])
if waiting >= tonumber(ARGV[2]) then return {0} end
if waiting > 0 then
  size = size + integer(redis.call('GET', KEYS[3]))
  if size > tonumber(ARGV[3]) then return {-1} end
end
local number = math.max(integer(redis.call('GET', KEYS[1])), tonumber(ARGV[4])) + 1
local added = redis.pcall('XADD', KEYS[2], string.format('%.0f-1', number), 'm', ARGV[1])
if type(added) == 'table' and added.err then
  -- The numbers were lost and the stream was not.
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      number = tonumber(string.match(info[i + 1], '^%d+')) + 1
    end
  end
  redis.call('XADD', KEYS[2], string.format('%.0f-1', number), 'm', ARGV[1])
end
local text = string.format('%.0f', number)
if ARGV[5] == '1' then
  redis.call('MSET', KEYS[1], text, KEYS[3], string.format('%.0f', size), KEYS[6], text)
else
  redis.call('MSET', KEYS[1], text, KEYS[3], string.format('%.0f', size))
end
if ARGV[9] ~= '' then
  -- Two hashes: when the first is full, or as old as ids are remembered, it replaces the second.
  local seconds, left = tonumber(ARGV[7]), redis.call('TTL', KEYS[4])
  if left >= 0 and (left < seconds or redis.call('HLEN', KEYS[4]) >= tonumber(ARGV[8])) then
    redis.call('UNLINK', KEYS[5])
    redis.call('RENAME', KEYS[4], KEYS[5])
    left = -2
  end
  redis.call('HSET', KEYS[4], ARGV[9], text .. ' ' .. ARGV[6])
  if left < 0 then redis.call('EXPIRE', KEYS[4], 2 * seconds) end
end
return {number}
