-- Put a message into a channel's outbox; its delivery number is also its place in the stream.
-- KEYS  1 the last delivery number (string)   2 the outbox (stream)
-- ARGV  1 the message, JSON text   2 messages that may wait
-- Returns the delivery number, or 0 when the outbox is full.
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[2]) then return 0 end
local number = redis.call('INCR', KEYS[1])
redis.call('XADD', KEYS[2], number .. '-1', 'm', ARGV[1])
return number
