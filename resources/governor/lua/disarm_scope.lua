-- Disarms the governor for the openings of one planner or symbol.
--
-- KEYS
--   1  scopes   hash: planners and symbols that are disarmed
--   2  events   stream of the governor's events
-- ARGV
--   1  JSON
--      scope       the planner or symbol
--      cause       text: JSON of cause, time and plans
--      scopes_max  scopes that may be disarmed one by one
--      maxlen      cap of the stream
--      event       fields and values, flat
-- Returns
--   {0, ''} when it is disarmed already, {2, ''} when that would be one scope too many, else {1, why the event could not be
--   written or empty}
-- Raises, having written nothing
--   WRONGTYPE  the scopes are no hash

local a = cjson.decode(ARGV[1])
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind) end
if redis.call('HEXISTS', KEYS[1], a.scope) == 1 then return {0, ''} end
if redis.call('HLEN', KEYS[1]) >= a.scopes_max then return {2, ''} end
redis.call('HSET', KEYS[1], a.scope, a.cause)
local event = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', a.maxlen, '*', unpack(a.event))
return {1, type(event) == 'table' and event.err or ''}
