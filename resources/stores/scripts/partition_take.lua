#!lua flags=allow-oom
-- Take a partition of an app's journal, unless another server has it. If we have it already, we do
-- not know: the answer when we took it was lost, or we could not give it back.
-- KEYS  1 its owner (string: epoch, host and process, or epoch alone)
-- ARGV  1 our host and process   2 an owner known to be dead, as it stands there, or ''
-- Returns {1, the owner that is there now}, or {0, the owner that has it}.
local owner = redis.call('GET', KEYS[1])
local epoch, name = string.match(owner or '0', '^(%d+) ?(.*)$')
if not epoch then epoch, name = '0', '' end
if name ~= '' and name ~= ARGV[1] and owner ~= ARGV[2] then return {0, owner} end
local now = string.format('%.0f %s', tonumber(epoch) + 1, ARGV[1])
redis.call('SET', KEYS[1], now)
return {1, now}
