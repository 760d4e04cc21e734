-- Take messages out of a channel's outbox.
-- KEYS  1 the outbox (stream)   2 bytes of messages in it (string)   3 how often they were handed out (hash)
-- ARGV  their delivery numbers
local freed = 0
for _, number in ipairs(ARGV) do
  local place = number .. '-1'
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], place, place)) do freed = freed + #entry[2][2] end
  redis.call('XDEL', KEYS[1], place)
  redis.call('HDEL', KEYS[3], number)
end
if freed > 0 and redis.call('DECRBY', KEYS[2], freed) < 0 then redis.call('SET', KEYS[2], 0) end
