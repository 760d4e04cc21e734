-- Put before the scripts that write several keys. A script runs alone, but nothing is rolled back
-- if one of its commands is refused. So whatever may be refused comes before the first write: a
-- command such as HLEN or XLEN is refused if the key is of another type, and `integer` refuses what
-- HINCRBY and INCRBY would.

-- The integer in a text; 0 if missing.
local function integer(text)
  if not text then return 0 end
  return tonumber(text) or error({err = 'ERR value is not an integer: ' .. string.sub(text, 1, 40)})
end

