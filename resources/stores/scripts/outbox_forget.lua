-- Delete what is left of the outbox of a server that is dead, unless there are messages in it, or
-- the server is back and connected to the channel.
-- KEYS  1 servers that are connected to the channel (hash)   2 the outbox (stream)
--       3... what belongs to it: its numbers and counts
-- ARGV  1 the server
-- Returns how many keys were deleted.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 or redis.call('XLEN', KEYS[2]) > 0 then
  return 0
end
return redis.call('UNLINK', unpack(KEYS, 2))
