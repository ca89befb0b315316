-- Ends kill switch and disarming, forgets today's errors, and records who did it.
--
-- KEYS
--   1   kill      kill switch
--   2   disarmed  what the governor reads
--   3   day       marker of the day
--   4   errors    set: plans of the day that could not be evaluated
--   5   events    stream of the governor's events
--   6   scopes    hash: planners and symbols that are disarmed
--   7   faults    hash: errors and bursts of the day, by scope
-- ARGV
--   1   maxlen    cap of the stream
--   2.. event     fields and values, which are given what was cleared
-- Returns
--   what stood: of kill, disarm and errors
-- Raises, having cleared nothing
--   WRONGTYPE     the stream is none

local kind = redis.call('TYPE', KEYS[5]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[5] .. ' is a ' .. kind) end
local before = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or nil
local cleared = {}
if redis.call('EXISTS', KEYS[1]) == 1 and before ~= '' and before ~= '0' then table.insert(cleared, 'kill') end
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[6]) > 0 then table.insert(cleared, 'disarm') end
local counted = redis.call('TYPE', KEYS[7]).ok == 'hash' and redis.call('HEXISTS', KEYS[7], 'errors') or 0
if redis.call('EXISTS', KEYS[4]) + counted > 0 then table.insert(cleared, 'errors') end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7])
local event = {unpack(ARGV, 2)}
table.insert(event, 'cleared')
table.insert(event, table.concat(cleared, ','))
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[1], '*', unpack(event))
return cleared
