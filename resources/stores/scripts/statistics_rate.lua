-- How many messages a conversation had in the last seconds, on its own clock.
-- KEYS  1 the conversation's totals (hash)
-- ARGV  1 prefix of the account's keys   2 conversation   3 direction in|out
--       4 seconds to look back
-- Returns the number. Looks at seconds for up to an hour, at minutes beyond.
local behind = redis.call('HGET', KEYS[1], ARGV[3] .. ':behind')
if not behind then return 0 end
local now = tonumber(redis.call('TIME')[1]) - tonumber(behind)
local span = tonumber(ARGV[4])
local ring = span <= RINGS[1][3] - 60 and RINGS[1] or RINGS[2]
local first = math.floor((now - span) / ring[2])
local sum = 0
local cells = ARGV[1] .. 'rate:' .. ARGV[3] .. ':' .. ring[1] .. ':' .. ARGV[2]
for _, text in ipairs(redis.call('HVALS', cells)) do
  if tonumber(string.match(text, '^%S+')) >= first then
    sum = sum + tonumber(string.match(text, '%S+$'))
  end
end
return sum
