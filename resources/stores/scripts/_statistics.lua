-- Shared by the scripts that count messages, and put before each of them.
-- Per conversation and direction: a total, a HyperLogLog of addresses, and how many messages each
-- second of the last hour and each minute of the last week had. The last two are rings: a hash with
-- a fixed number of cells, each "slot count" (a slot is a second or a minute). A later slot takes
-- over the cell, so nothing has to be cleaned up and nothing grows with the traffic.

local RINGS = {{'s', 1, 3600}, {'m', 60, 10080}}

-- Seconds that a message may be ahead of the server: a gateway's clock or time zone may be wrong,
-- and a conversation whose newest message is in the year 9999 would never have a throughput again.
local AHEAD_MAX = 86400

-- Read what counting a message will change, and return a function that counts it. That function
-- must be called before anything else is written: its first command may be refused, but none after
-- it. `second` is the message's own time. The conversation's clock is as far behind the server's as
-- its newest message was.
local function counting(prefix, conversation, direction, address, second)
  local now = tonumber(redis.call('TIME')[1])
  if second > now + AHEAD_MAX then second = now end
  local totals = prefix .. 'stats:' .. conversation
  local counted = redis.call('HMGET', totals, direction, direction .. ':newest')
  local total, newest = integer(counted[1]) + 1, counted[2] and integer(counted[2]) or -1
  local changes = {}
  for _, ring in ipairs(RINGS) do
    local cells = prefix .. 'rate:' .. direction .. ':' .. ring[1] .. ':' .. conversation
    local slot = math.floor(second / ring[2])
    local cell = string.format('%d', slot % ring[3])
    local text = redis.call('HGET', cells, cell)
    local held, count = -1, 0
    if text then
      held, count = integer(string.match(text, '^%S+')), integer(string.match(text, '%S+$'))
    end
    if slot == held then
      changes[#changes + 1] = {cells, cell, string.format('%d %d', slot, count + 1)}
    elseif slot > held then
      changes[#changes + 1] = {cells, cell, string.format('%d 1', slot)}
    end
  end
  return function()
    -- Refused if the key holds a string that is no HyperLogLog; no other command would tell.
    if address ~= '' then
      redis.call('PFADD', prefix .. 'uniques:' .. direction .. ':' .. conversation, address)
    end
    if second >= newest then
      local behind = now - second
      redis.call('HSET', totals, direction, total,
                 direction .. ':newest', second, direction .. ':behind', behind)
    else
      redis.call('HSET', totals, direction, total)
    end
    for _, change in ipairs(changes) do redis.call('HSET', unpack(change)) end
  end
end
