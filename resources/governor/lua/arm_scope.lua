-- Ends what is disarmed of one planner or symbol, forgets its errors, and records who did it.
--
-- KEYS
--   1   scopes   hash: planners and symbols that are disarmed
--   2   faults   hash: errors and bursts of the day, by scope
--   3   events   stream of the governor's events
-- ARGV
--   1   scope
--   2   maxlen   cap of the stream
--   3.. event    fields and values, which are given what was cleared
-- Returns
--   what stood: of disarm and errors
-- Raises, having cleared nothing
--   WRONGTYPE    a key is of another type

local wanted = {'hash', 'hash', 'stream'}
for i = 1, 3 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= wanted[i] and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
local scope, maxlen, event = ARGV[1], ARGV[2], {unpack(ARGV, 3)}
local cleared = {}
if redis.call('HDEL', KEYS[1], scope) == 1 then table.insert(cleared, 'disarm') end
for _, kind in ipairs({'errors', 'bursts'}) do
  if redis.call('HDEL', KEYS[2], kind .. '|' .. scope) == 1 then
    redis.call('HINCRBY', KEYS[2], kind, -1)
    if kind == 'errors' then table.insert(cleared, kind) end
  end
end
table.insert(event, 'cleared')
table.insert(event, table.concat(cleared, ','))
redis.call('XADD', KEYS[3], 'MAXLEN', '~', maxlen, '*', unpack(event))
return cleared
