-- Shared by the scripts that remove dead letters, and put before each of them.

-- Fail wherever remove_letter would fail halfway.
local function check_removal(texts, counts, letter)
  redis.call('HLEN', texts)
  for _, count in ipairs(redis.call('HMGET', counts, letter[2][4], '')) do integer(count) end
  integer(letter[2][6])
end

local function remove_letter(letters, texts, counts, letter)
  redis.call('XDEL', letters, letter[1])
  redis.call('HDEL', texts, letter[1])
  local app = letter[2][4]
  if redis.call('HINCRBY', counts, app, -1) <= 0 then redis.call('HDEL', counts, app) end
  redis.call('HINCRBY', counts, '', -tonumber(letter[2][6]))
end
