-- Some groups of an account, like SSCAN: a group may come twice.
-- KEYS  1 all groups (set of keys)
-- ARGV  1 prefix of the account's keys  2 cursor, "0" at first
--       3 bytes of all, after which no more are read  4... keys of groups to read instead of a page
-- Returns the next cursor ("0": these were the last; with keys, the given one), key,
-- {field, text, ...}, key, ...; {'', error} of a group that another program has overwritten with
-- something else, and false of one that was not read: ask for it by its key.
local cursor, wanted = ARGV[2], {}
if #ARGV > 3 then
  for i = 4, #ARGV do table.insert(wanted, ARGV[i]) end
else
  local page = redis.call('SSCAN', KEYS[1], cursor, 'COUNT', 50)
  cursor, wanted = page[1], page[2]
end
local result, size, most = {cursor}, 0, tonumber(ARGV[3])
for _, key in ipairs(wanted) do
  table.insert(result, key)
  if size >= most then
    table.insert(result, false)
  else
    local group = redis.pcall('HGETALL', ARGV[1] .. 'group:' .. key)
    table.insert(result, group.err and {'', group.err} or group)
    for i = 2, #group, 2 do size = size + #group[i] end
  end
end
return result
