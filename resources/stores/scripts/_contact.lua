-- Shared by the scripts whose names begin with "contact_", and put before each of them.
-- A contact is a hash: plain fields as they are, `extras-*` and `subscription-*` as JSON texts,
-- `groups` as a JSON list, and `~seq`, its number in the account. These change with it: the
-- look-ups by address (sorted sets of "created_at|key", the newest last), the members of groups
-- (sets), the list of all contacts (sorted set by number) and the account's change number with what
-- changed last.

local ADDRESSES = {'msisdn', 'twitter_handle', 'gtalk_id', 'mxit_id', 'wechat_id'}
local FIELDS_MAX = 1000     -- of one contact
local SIZE_MAX = 256 * 1024 -- bytes of one contact

local function normal(field, address)
  -- +27... and 27... are one number; the resource of a Jabber address names a device.
  if field == 'msisdn' then return (string.gsub(address, '^%+', '')) end
  if field == 'gtalk_id' then return (string.gsub(address, '/.*$', '')) end
  return address
end

local function address_key(prefix, field, address)
  return prefix .. 'addr:' .. field .. ':' .. normal(field, address)
end

local function read(hash)
  local flat, contact = redis.call('HGETALL', hash), {}
  for i = 1, #flat, 2 do contact[flat[i]] = flat[i + 1] end
  return contact
end

local function list_of(text)
  return text and cjson.decode(text) or {}
end

-- The commands that move an address or a membership. Each is checked by the command named here,
-- before any of them is called.
local CHECKS = {ZADD = 'ZCARD', ZREM = 'ZCARD', SADD = 'SCARD', SREM = 'SCARD'}

local function address_moves(prefix, key, old, new, moves)
  for _, field in ipairs(ADDRESSES) do
    local before = old[field] and old.created_at .. '|' .. key
    local after = new[field] and new.created_at .. '|' .. key
    if old[field] ~= new[field] or before ~= after then
      if before then
        table.insert(moves, {'ZREM', address_key(prefix, field, old[field]), before})
      end
      if after then
        table.insert(moves, {'ZADD', address_key(prefix, field, new[field]), 0, after})
      end
    end
  end
end

local function membership_moves(prefix, key, old, new, moves)
  local kept = {}
  for _, group in ipairs(list_of(new.groups)) do
    kept[group] = true
    table.insert(moves, {'SADD', prefix .. 'members:' .. group, key})
  end
  for _, group in ipairs(list_of(old.groups)) do
    if not kept[group] then table.insert(moves, {'SREM', prefix .. 'members:' .. group, key}) end
  end
end

-- Apply changes to a contact: {wipe, set = {field = text}, drop = {field}, drop_prefix = {prefix},
-- groups, add_groups}. `most` is how many contacts the account may have. Returns the contact as
-- field, text, ...; an error if it would pass a limit, and then nothing has changed.
local function write(prefix, hash, key, changes, most)
  local old = read(hash)
  if not old['~seq'] and redis.call('ZCARD', prefix .. 'contacts') >= most then
    return redis.error_reply('LIMIT an account may have ' .. most .. ' contacts')
  end
  local new = {}
  if changes.wipe then
    new.created_at = old.created_at
  else
    for field, text in pairs(old) do new[field] = text end
  end
  for _, start in ipairs(changes.drop_prefix or {}) do
    for field in pairs(new) do
      if string.sub(field, 1, #start) == start then new[field] = nil end
    end
  end
  for _, field in ipairs(changes.drop or {}) do new[field] = nil end
  for field, text in pairs(changes.set or {}) do new[field] = text end
  if changes.groups then
    local groups, seen = changes.add_groups and list_of(old.groups) or {}, {}
    for _, group in ipairs(groups) do seen[group] = true end
    for _, group in ipairs(changes.groups) do
      if not seen[group] then table.insert(groups, group); seen[group] = true end
    end
    new.groups = #groups > 0 and cjson.encode(groups) or nil
  end
  local count, size = 0, 0
  for field, text in pairs(new) do count, size = count + 1, size + #field + #text end
  local limit = 'LIMIT a contact may have '
  if count > FIELDS_MAX then
    return redis.error_reply(limit .. FIELDS_MAX .. ' fields, not ' .. count)
  end
  if size > SIZE_MAX then
    return redis.error_reply(limit .. SIZE_MAX .. ' bytes, not ' .. size)
  end

  local moves = {}
  address_moves(prefix, key, old, new, moves)
  membership_moves(prefix, key, old, new, moves)
  for _, move in ipairs(moves) do redis.call(CHECKS[move[1]], move[2]) end
  integer(redis.call('GET', prefix .. 'contacts:seq'))
  integer(redis.call('GET', prefix .. 'contacts:changes'))
  integer(old['~seq'])
  redis.call('ZCARD', prefix .. 'contacts')
  redis.call('ZCARD', prefix .. 'contacts:changed')

  new['~seq'] = old['~seq'] or tostring(redis.call('INCR', prefix .. 'contacts:seq'))
  local flat = {}
  for field, text in pairs(new) do
    table.insert(flat, field)
    table.insert(flat, text)
  end
  redis.call('DEL', hash)
  redis.call('HSET', hash, unpack(flat))
  for _, move in ipairs(moves) do redis.call(unpack(move)) end
  redis.call('ZADD', prefix .. 'contacts', new['~seq'], key)
  local change = redis.call('INCR', prefix .. 'contacts:changes')
  redis.call('ZADD', prefix .. 'contacts:changed', change, key)
  return flat
end

-- The contact with an address that was created last: its key, or nil.
local function find(prefix, field, address)
  local newest = redis.call('ZREVRANGE', address_key(prefix, field, address), 0, 0)[1]
  return newest and string.sub(newest, string.find(newest, '|', 1, true) + 1)
end
