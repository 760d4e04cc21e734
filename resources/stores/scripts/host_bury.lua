#!lua flags=allow-oom
-- Declare a server dead whose lease has run out: it cannot renew it any more. That is remembered
-- for 30 days, so that servers which never come back leave nothing.
-- KEYS  1 its lease   2 who took it last (string)
-- ARGV  1 who declares it, as JSON
-- Returns {0} if it lives, else {1, who took the lease last or ''}.
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
local last = redis.call('GET', KEYS[2])
redis.call('SET', KEYS[2], ARGV[1], 'EX', 2592000)
return {1, last or ''}
