-- Count a message that an app has sent.
-- KEYS  1 the conversation's totals (hash)
-- ARGV  1 prefix of the account's keys   2 conversation   3 address or ''   4 second of the message
counting(ARGV[1], ARGV[2], 'out', ARGV[3], tonumber(ARGV[4]))()
