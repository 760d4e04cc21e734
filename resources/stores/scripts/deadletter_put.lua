-- Move an entry from an app's journal to the account's dead letters; the oldest make room.
-- KEYS  1 the app's journal (stream)   2 its counts of runs (hash)
--       3 dead letters (stream: 's' summary, 'a' app, 'n' bytes)
--       4 their texts (hash: place among them to text)
--       5 how many there are (hash: app to number, '' to bytes)
--       6 seen (string: the entry that its id became, and its outcome), if it has an id
-- ARGV  1 place in the journal   2 summary, JSON text   3 app   4 text
--       5 letters at most   6 bytes at most   7 its outcome, as text
-- Returns false if the entry is not in the journal, else
--         {place among the dead letters, summaries of those dropped...}.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
redis.call('HLEN', KEYS[2])
redis.call('HLEN', KEYS[4])
local seen = KEYS[6] and redis.pcall('GET', KEYS[6])
local counted = redis.call('HMGET', KEYS[5], ARGV[3], '')
integer(counted[1])
local letters, bytes = redis.call('XLEN', KEYS[3]) + 1, integer(counted[2]) + #ARGV[4]
local dropped, start = {}, '-'
while letters > 1 and (letters > tonumber(ARGV[5]) or bytes > tonumber(ARGV[6])) do
  local oldest = redis.call('XRANGE', KEYS[3], start, '+', 'COUNT', 1)[1]
  check_removal(KEYS[4], KEYS[5], oldest)
  dropped[#dropped + 1], start = oldest, '(' .. oldest[1]
  letters, bytes = letters - 1, bytes - integer(oldest[2][6])
end

local place = redis.call('XADD', KEYS[3], '*', 's', ARGV[2], 'a', ARGV[3], 'n', #ARGV[4])
redis.call('HSET', KEYS[4], place, ARGV[4])
redis.call('HINCRBY', KEYS[5], ARGV[3], 1)
redis.call('HINCRBY', KEYS[5], '', #ARGV[4])
local answer = {place}
for _, letter in ipairs(dropped) do
  remove_letter(KEYS[3], KEYS[4], KEYS[5], letter)
  answer[#answer + 1] = letter[2][2]
end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if seen == ARGV[1] then redis.call('SET', KEYS[6], seen .. ' ' .. ARGV[7], 'KEEPTTL') end
return answer
