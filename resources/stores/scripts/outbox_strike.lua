-- Take messages out of a channel's outbox.
-- KEYS  1 the outbox (stream)   2 bytes of messages in it (string)
--       3 how often they were handed out (hash)
-- ARGV  1 '' if none of them was handed out more than once
--       2, 3 a delivery number, and the message's bytes or -1 if not known   4, 5 ...
if ARGV[1] ~= '' then redis.call('HLEN', KEYS[3]) end
local bytes, freed = integer(redis.call('GET', KEYS[2])), 0
for i = 2, #ARGV, 2 do
  local place, size = ARGV[i] .. '-1', tonumber(ARGV[i + 1])
  if size < 0 then
    size = 0
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], place, place)) do
      size = #entry[2][2]
    end
  end
  if redis.call('XDEL', KEYS[1], place) == 1 then freed = freed + size end
  if ARGV[1] ~= '' then redis.call('HDEL', KEYS[3], ARGV[i]) end
end
if freed > 0 then
  redis.call('SET', KEYS[2], string.format('%.0f', math.max(bytes - freed, 0)))
end
