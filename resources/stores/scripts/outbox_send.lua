-- As outbox_post, into the outbox of the server that has a way out for the message; which one, is
-- decided here.
-- KEYS  1 to 6 as of outbox_post: of the outbox that is no server's
--       7 servers that are connected to the channel (hash: host to 'g', or to 'o' if its
--         connections take only replies to what they brought)
--       8 the newest epoch of each partition whose runs have posted (hash)
-- ARGV  1 our host   2 the host that took in the message replied to, or ''
--       3 the partition of the run, or ''   4 its epoch
--       5... those of outbox_post; 8 and 9 hold for our own outbox
-- Returns {host or '', what outbox_post returns...}.
local me, via, channel = ARGV[1], ARGV[2], string.match(KEYS[1], '{channel:(.-)}')
local partition, epoch = ARGV[3], tonumber(ARGV[4])
for _ = 1, 4 do table.remove(ARGV, 1) end
if partition ~= '' then
  local newest = integer(redis.call('HGET', KEYS[8], partition))
  if epoch < newest then
    return redis.error_reply('FENCED another server owns the partition')
  end
end
local target = ''
if via ~= '' and redis.call('HEXISTS', KEYS[7], via) == 1 then
  target = via
elseif redis.call('HGET', KEYS[7], me) == 'g' then
  target = me
else
  local takers = redis.call('HGETALL', KEYS[7])
  for i = 1, #takers, 2 do
    if takers[i + 1] == 'g' then target = takers[i] end
  end
end
if target ~= '' then
  for _, i in ipairs({1, 2, 3, 6}) do KEYS[i] = KEYS[i] .. ':' .. target end
end
if target ~= me then ARGV[4], ARGV[5] = '0', '' end
local answer = post()
if partition ~= '' then redis.call('HSET', KEYS[8], partition, epoch) end
if target ~= '' and target ~= me and #answer == 1 and answer[1] > 0 then
  redis.call('PUBLISH', 'jsbox:host:' .. target, cjson.encode({'out', channel, answer[1]}))
end
table.insert(answer, 1, target)
return answer
