-- Add what one server has of a stretch of time to what all have of it.
-- KEYS  1 what all have (hash: path and aggregator to "count total low high last")
-- ARGV  1 seconds to keep it   2 path and aggregator   3 count   4 total   5 low   6 high   7 last
--       8 to 13 the same of the next, and so on
redis.call('HLEN', KEYS[1])
for i = 2, #ARGV, 6 do
  local count, total = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local low, high = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  local had = redis.call('HGET', KEYS[1], ARGV[i])
  if had then
    local c, t, l, h = string.match(had, '^(%S+) (%S+) (%S+) (%S+)')
    count, total = count + (tonumber(c) or 0), total + (tonumber(t) or 0)
    low, high = math.min(low, tonumber(l) or low), math.max(high, tonumber(h) or high)
  end
  local text = string.format('%.0f %.17g %.17g %.17g %s', count, total, low, high, ARGV[i + 5])
  redis.call('HSET', KEYS[1], ARGV[i], text)
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
