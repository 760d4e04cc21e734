-- Put before the scripts that write several keys. A script runs alone, but nothing is rolled back
-- if one of its commands is refused. So whatever may be refused comes before the first write: a
-- command such as HLEN or XLEN is refused if the key is of another type, and `integer` refuses what
-- HINCRBY and INCRBY would.

-- The integer in a text; 0 if missing. Lua would take '1.5', '0x10', ' 7' and 'inf' for numbers,
-- too, and INCRBY counts to 2^63 only, which has 19 digits.
local function integer(text)
  if not text or text == '0' then return 0 end
  if #text > 18 or not string.match(text, '^%-?[1-9]%d*$') then
    error({err = 'ERR value is not an integer: ' .. string.sub(text, 1, 40)})
  end
  return tonumber(text)
end

