-- Put a message into a channel's outbox; its delivery number is also its place in the stream.
-- KEYS  1 the last delivery number (string)   2 the outbox (stream)   3 bytes of messages in it (string)
-- ARGV  1 the message, JSON text   2 messages that may wait   3 bytes that may wait
--       4 the newest delivery number that the caller knows of: a store that went back in time goes on after it
-- Returns the delivery number, 0 when too many messages wait, or -1 when too many bytes do.
local size, waiting = #ARGV[1], redis.call('XLEN', KEYS[2])
if waiting >= tonumber(ARGV[2]) then return 0 end
if waiting == 0 then redis.call('DEL', KEYS[3]) end
if redis.call('INCRBY', KEYS[3], size) > tonumber(ARGV[3]) and waiting > 0 then
  redis.call('DECRBY', KEYS[3], size)
  return -1
end
local function go_on_after(known)
  redis.call('SET', KEYS[1], string.format('%.0f', known + 1))
  return known + 1
end
local number, known = redis.call('INCR', KEYS[1]), tonumber(ARGV[4])
if number <= known then number = go_on_after(known) end
local added = redis.pcall('XADD', KEYS[2], string.format('%.0f-1', number), 'm', ARGV[1])
if type(added) == 'table' and added.err then
  -- The numbers were lost and the stream was not.
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then number = go_on_after(tonumber(string.match(info[i + 1], '^%d+'))) end
  end
  redis.call('XADD', KEYS[2], string.format('%.0f-1', number), 'm', ARGV[1])
end
return number
