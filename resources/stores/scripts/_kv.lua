-- Shared by the scripts of kv. The KEYS of each begin with:
--   1 the value (string)   2 the account's keys (sorted set: name -> expiry in ms, or +inf)
--   3 sizes (hash: name -> bytes)   4 bytes of all (string)   5 warned (marker)
-- The bytes of a key are those of its name and its value. 4 is always the sum of 3: both change in
-- one step. Values from before there were sizes are counted later, by kv_count.

-- How many bytes a name takes, as noted. Fails wherever `resize` would fail halfway.
local function noted_size(name)
  integer(redis.call('GET', KEYS[4]))
  return integer(redis.call('HGET', KEYS[3], name))
end

-- Note how many bytes a name takes (0: it is gone), and took before.
local function resize(name, size, before)
  if size == before then return end
  if size > 0 then
    redis.call('HSET', KEYS[3], name, size)
  else
    redis.call('HDEL', KEYS[3], name)
  end
  redis.call('INCRBY', KEYS[4], size - before)
end

-- Give back keys that have expired, 1000 at most. Returns how many.
local function release_some(now)
  local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)
  if #gone == 0 then return 0 end
  local bytes = 0
  for _, size in ipairs(redis.call('HMGET', KEYS[3], unpack(gone))) do
    bytes = bytes + integer(size)
  end
  integer(redis.call('GET', KEYS[4]))
  redis.call('ZREM', KEYS[2], unpack(gone))
  redis.call('HDEL', KEYS[3], unpack(gone))
  if bytes > 0 then redis.call('DECRBY', KEYS[4], bytes) end
  return #gone
end

-- True once an hour: a full account does not flood its apps' logs.
local function is_to_warn(what)
  return redis.call('SET', KEYS[5] .. what, 1, 'NX', 'EX', 3600) and true or false
end

-- Decide whether a key of `size` bytes may be written. Returns 1 (yes), 0 (too many keys) or -1
-- (too many bytes), what to warn of (0 nothing, 1 the soft limit, 2 keys, 3 bytes), and, if it may
-- be written, how many bytes the key has already. Gives back expired keys as far as needed, about
-- 10,000 at most at a time.
local function admit(name, size, now, hard, soft, most)
  local is_new = redis.call('EXISTS', KEYS[1]) == 0
  if is_new then release_some(now) end
  local is_full, count
  for _ = 1, 10 do
    count = redis.call('ZCARD', KEYS[2])
    if is_new and redis.call('ZSCORE', KEYS[2], name) then count = count - 1 end
    local own = integer(redis.call('HGET', KEYS[3], name))
    local bytes = integer(redis.call('GET', KEYS[4])) - own + size
    is_full = is_new and count >= hard
    if not is_full and (bytes <= most or size <= own) then
      return 1, is_new and count + 1 > soft and is_to_warn('') and 1 or 0, own
    end
    if release_some(now) == 0 then break end
  end
  if is_full then return 0, is_to_warn(':hard') and 2 or 0 end
  return -1, is_to_warn(':bytes') and 3 or 0
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

