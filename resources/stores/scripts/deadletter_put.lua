-- Move an entry from an app's journal to the account's dead letters; the oldest make room.
-- KEYS  1 the app's journal (stream)   2 its counts of runs (hash)
--       3 dead letters (stream: 's' summary, 'a' app, 'n' bytes)   4 their texts (hash: place among them to text)
--       5 how many there are (hash: app to number, '' to bytes)
-- ARGV  1 place in the journal   2 summary, JSON text   3 app   4 text   5 letters at most   6 bytes at most
-- Returns false when the entry is not in the journal, else {place among the dead letters, summaries of those dropped...}.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
local place = redis.call('XADD', KEYS[3], '*', 's', ARGV[2], 'a', ARGV[3], 'n', #ARGV[4])
redis.call('HSET', KEYS[4], place, ARGV[4])
redis.call('HINCRBY', KEYS[5], ARGV[3], 1)
local bytes = redis.call('HINCRBY', KEYS[5], '', #ARGV[4])
local letters = redis.call('XLEN', KEYS[3])
local answer = {place}
while letters > 1 and (letters > tonumber(ARGV[5]) or bytes > tonumber(ARGV[6])) do
  local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
  remove_letter(KEYS[3], KEYS[4], KEYS[5], oldest)
  letters, bytes = letters - 1, bytes - tonumber(oldest[2][6])
  answer[#answer + 1] = oldest[2][2]
end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return answer
