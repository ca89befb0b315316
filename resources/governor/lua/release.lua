-- Ends one guard before its time, and records who did it.
--
-- KEYS
--   1   guard     the guard
--   2   events    stream of risk events
--   3   readings  hash: what is kept between readings
-- ARGV
--   1   held      what the guard held when its condition was examined
--   2   type      of the guard
--   3   maxlen    cap of the stream
--   4.. event     fields and values
-- Returns
--   1, or 0 when the guard is another one by now
-- Raises, having released nothing
--   WRONGTYPE     a key is of another type

local held, guard, maxlen = ARGV[1], ARGV[2], ARGV[3]
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is a ' .. kind) end
if redis.call('GET', KEYS[1]) ~= held then return 0 end
redis.call('HDEL', KEYS[3], guard)
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', maxlen, '*', unpack(ARGV, 4))
return 1
