-- Deletes the kept state of a flat symbol, or marks it as not held.
--
-- KEYS
--   1   position  hash: kept state of one symbol
-- ARGV
--   1   delete    1 to delete it, 0 to mark it
--   2.. mark      fields and values
-- Returns
--   1, or 0 when there is none (it may have expired since it was read: a mark alone would be half a hash)
-- Raises, having done nothing
--   WRONGTYPE     the key is no hash

local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return 0 end
if kind ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind) end
if ARGV[1] == '1' then return redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
