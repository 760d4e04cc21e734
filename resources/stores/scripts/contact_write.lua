-- Create, replace or change a contact, with everything that changes with it, in one step.
-- KEYS  1 the contact (hash)
-- ARGV  1 prefix of the account's keys   2 the contact's key   3 must exist 1|0
--       4 the changes (see _contact.lua), JSON   5 contacts that the account may have
-- Returns the contact as field, text, ...; nothing if it must exist and does not.
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then return false end
return write(ARGV[1], KEYS[1], ARGV[2], cjson.decode(ARGV[4]), tonumber(ARGV[5]))
