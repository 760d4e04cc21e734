-- Take a message or event into the journal, once per id, and count it.
-- KEYS  1 seen (string: the entry it became, and its outcome once that is known)
--       2 the app's journal (stream)
--       3 who owns this partition of the journal (string), if several servers share the work
-- ARGV  1 seconds to remember the id   2 the entry   3 prefix of the account's keys
--       4 conversation
--       5 what to count: 'message', 'event', or '' for nothing
--       of a message: 6 address or ''   7 its second
--       of an event: 6 its kind   7 its delivery status or ''
--       with KEYS 3: 8 our host   9 what to tell the owner, if that is another
-- Returns {entry id, 0}, or {entry id, 1, outcome or ''} if the id was seen before.
local seen = redis.call('GET', KEYS[1])
if seen then
  local before, outcome = string.match(seen, '^(%S*) ?(.*)$')
  return {before, 1, outcome}
end
redis.call('XLEN', KEYS[2])
local owner = KEYS[3] and redis.call('GET', KEYS[3])
if ARGV[5] == 'message' then
  counting(ARGV[3], ARGV[4], 'in', ARGV[6], tonumber(ARGV[7]))()
elseif ARGV[5] == 'event' then
  local totals, status = ARGV[3] .. 'stats:' .. ARGV[4], ARGV[6] .. '_' .. ARGV[7]
  local counted = redis.call('HMGET', totals, ARGV[6], status)
  integer(counted[1])
  integer(counted[2])
  redis.call('HINCRBY', totals, ARGV[6], 1)
  if ARGV[7] ~= '' then redis.call('HINCRBY', totals, status, 1) end
end
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
redis.call('SET', KEYS[1], id, 'EX', ARGV[1])
if KEYS[3] then
  local host = string.match(owner or '', '^%d+ (%S+)')
  if host and host ~= ARGV[8] then redis.call('PUBLISH', 'jsbox:host:' .. host, ARGV[9]) end
end
return {id, 0}
