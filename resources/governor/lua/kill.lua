-- Sets the kill switch, whatever stands there, and records who did it. The value is put together by APPEND, which leaves another
-- encoding than a SET by hand: so the record of who set it is told from a key that somebody deleted and set anew.
--
-- KEYS
--   1   kill     kill switch
--   2   events   stream of the governor's events
-- ARGV
--   1   maxlen   cap of the stream
--   2.. event    fields and values; the event of a kill that found ours standing is marked as such
-- Returns
--   {1 when the switch was not set before else 0, why the event could not be written or empty}
-- Raises
--   nothing: the switch is set in any case

local before = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or nil
local off = redis.call('EXISTS', KEYS[1]) == 0 or before == '' or before == '0'
local ours = before == '1' and redis.call('OBJECT', 'ENCODING', KEYS[1]) == 'raw'
redis.call('SET', KEYS[1], '')
redis.call('APPEND', KEYS[1], '1')
local fields = {unpack(ARGV, 2)}
if ours then
  table.insert(fields, 'standing')
  table.insert(fields, '1')
end
local event = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', unpack(fields))
return {off and 1 or 0, type(event) == 'table' and event.err or ''}
