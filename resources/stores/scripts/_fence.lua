-- Put before the scripts that a run writes with, if several servers share the work: what the past
-- owner of a partition still writes is refused.
-- KEYS  the last one: who owns the partition (string)   ARGV  the last one: who has to
do
  local key, owner = table.remove(KEYS), table.remove(ARGV)
  if redis.call('GET', key) ~= owner then
    return redis.error_reply('FENCED another server owns the partition')
  end
end
