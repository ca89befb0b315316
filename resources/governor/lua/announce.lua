-- Activates a guard for its time and announces it.
--
-- KEYS
--   1  guard    the guard
--   2  events   stream of risk events
-- ARGV
--   1  JSON
--      guard    text: the guard as JSON
--      ttl_sec  lifetime of the guard
--      maxlen   cap of the stream
--      events   each a flat list of fields and values
-- Returns
--   1, or 0 when the guard lives already, whoever set it
-- Raises, having written nothing
--   WRONGTYPE  the stream is none

if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is a ' .. kind) end
local a = cjson.decode(ARGV[1])
redis.call('SET', KEYS[1], a.guard, 'EX', a.ttl_sec)
for _, event in ipairs(a.events) do redis.call('XADD', KEYS[2], 'MAXLEN', '~', a.maxlen, '*', unpack(event)) end
return 1
