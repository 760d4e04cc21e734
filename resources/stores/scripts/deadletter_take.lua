-- Remove a dead letter; if it is to be run again, put it into the journal in the same step.
-- KEYS  1 dead letters (stream)   2 their texts (hash)   3 how many there are (hash)
--       4 the app's journal (stream)
--       5 seen (string: the entry that its id became, and its outcome), if it is run again
-- ARGV  1 place among the dead letters   2 the entry for the journal, or '' to drop the letter
-- Returns false if there is no such letter, else the place in the journal or ''.
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return false end
check_removal(KEYS[2], KEYS[3], letter)
local place = ''
if ARGV[2] ~= '' then
  place = redis.call('XADD', KEYS[4], '*', 'e', ARGV[2])
  redis.call('SET', KEYS[5], place, 'XX', 'KEEPTTL')
end
remove_letter(KEYS[1], KEYS[2], KEYS[3], letter)
return place
