-- Keep a recording, and only the newest ones of the app.
-- KEYS  1 the app's recordings, newest first (list of keys)
-- ARGV  1 key of this one   2 its text   3 seconds to keep it   4 how many are kept
redis.call('LLEN', KEYS[1]) -- refused if it is no list, before anything is written
redis.call('SET', ARGV[1], ARGV[2], 'EX', ARGV[3])
redis.call('LREM', KEYS[1], 0, ARGV[1])
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
while redis.call('LLEN', KEYS[1]) > tonumber(ARGV[4]) do
  redis.call('DEL', redis.call('RPOP', KEYS[1]))
end
