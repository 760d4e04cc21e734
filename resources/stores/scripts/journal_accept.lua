-- Take a message or event into the journal, once per id.
-- KEYS  1 seen (string: the entry it became)   2 the app's journal (stream)
-- ARGV  1 seconds to remember the id   2 the entry
-- Returns {entry id, 0}, or {entry id, 1} when the id was seen before.
local seen = redis.call('GET', KEYS[1])
if seen then return {seen, 1} end
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
redis.call('SET', KEYS[1], id, 'EX', ARGV[1])
return {id, 0}
