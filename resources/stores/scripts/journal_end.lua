-- Strike an entry whose run has ended, and keep its outcome with its id; tell the server that took
-- it in. Fenced.
-- KEYS  1 the journal of its partition (stream)   2 counts of its runs (hash)
--       3 seen (string: the entry that its id became, and its outcome)
-- ARGV  1 place   2 the outcome, as text, or '' if there is none
--       3 the server to tell, or ''   4 what to tell it
-- Returns how many heard that; -1 if nobody was to be told, or the entry was not there.
redis.call('HLEN', KEYS[2])
local seen = redis.pcall('GET', KEYS[3])
local struck = redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
local heard = -1
if struck == 1 then
  if seen == ARGV[1] and ARGV[2] ~= '' then
    redis.call('SET', KEYS[3], seen .. ' ' .. ARGV[2], 'KEEPTTL')
  end
  if ARGV[3] ~= '' then heard = redis.call('PUBLISH', 'jsbox:host:' .. ARGV[3], ARGV[4]) end
end
return heard
