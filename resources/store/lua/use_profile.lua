-- Records the use of a profile, unless another one was recorded since the caller compared.
--
-- KEYS
--   1   history   stream of uses
-- ARGV
--   1   newest    id of the newest entry as the caller read it, '' for none
--   2   above     id of the use in force, which the new id must be above, '' for none: a clock may have been set back
--   3   cap       about so many entries are kept
--   4.. fields    and values of the entry
-- Returns
--   the id of the entry, or false when another use was recorded meanwhile
-- Raises, having written nothing
--   WRONGTYPE     the key is no stream

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if (last[1] and last[1][1] or '') ~= ARGV[1] then return false end
local id, above = '*', string.match(ARGV[2], '^(%d+)')
if above and tonumber(above) >= tonumber(redis.call('TIME')[1]) * 1000 then id = string.format('%.0f-0', tonumber(above) + 1) end
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], id, unpack(ARGV, 4))
