#!lua flags=allow-oom
-- Take or renew the lease of the store, unless another server has it.
-- KEYS  1 the lease (string, expires)   2 who took it last (string)
-- ARGV  1 who we are, as JSON   2 milliseconds
--       3 '1': we have had it, and are to be told if another server had it since
-- Returns {1, who had it before or ''}, or {0, who has it or had it since, milliseconds left}.
-- What the same id has taken in the same boot is ours: the lock on its data_dir proves that the
-- process which took it is dead.
local function same(text)
  local is_read, theirs = pcall(cjson.decode, text)
  local ours = cjson.decode(ARGV[1])
  return is_read and type(theirs) == 'table'
         and theirs.id == ours.id and theirs.boot == ours.boot
end
local held, last = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if held == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, ''}
end
if held and (ARGV[3] == '1' or not same(held)) then
  return {0, held, redis.call('PTTL', KEYS[1])}
end
if ARGV[3] == '1' and last and last ~= ARGV[1] then
  return {0, last, 0}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
return {1, last ~= ARGV[1] and (held or last) or ''}
