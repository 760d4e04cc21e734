-- Read on in a channel's outbox.
-- KEYS  1 the outbox (stream)   2 the newest delivery number ever handed out in order (string)
--       3 how often others were handed out (hash: delivery number to times)
-- ARGV  1 where to begin: "-", or "(" and a place   2 messages at most
--       3 bytes after which no more are read
-- Returns {number handed out or false, 1 if there is nothing after these (else 0),
--          {place, message, times or false} ...}.
local found, size, start = {redis.call('GET', KEYS[2]), 0}, 0, ARGV[1]
local counted = redis.call('EXISTS', KEYS[3]) == 1
while #found - 2 < tonumber(ARGV[2]) and size < tonumber(ARGV[3]) do
  local most = math.min(20, tonumber(ARGV[2]) - #found + 2)
  local page = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', most)
  for _, entry in ipairs(page) do
    local times = counted and redis.call('HGET', KEYS[3], string.match(entry[1], '^%d+'))
    found[#found + 1] = {entry[1], entry[2][2], times}
    size = size + #entry[2][2]
    start = '(' .. entry[1]
    if size >= tonumber(ARGV[3]) then break end
  end
  if #page < most and size < tonumber(ARGV[3]) then
    found[2] = 1
    break
  end
end
return found
