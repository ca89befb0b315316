-- Disarms the governor for everybody; a standing cause is kept.
--
-- KEYS
--   1   day        marker of the day
--   2   disarmed   what the governor reads
--   3   events     stream of the governor's events
-- ARGV
--   1   cause      JSON: cause and time
--   2   ttl_sec    lifetime of the marker
--   3   maxlen     cap of the stream
--   4.. event      fields and values
-- Returns
--   {0, ''} when both keys stand already, else {1, why the event could not be written or empty}
-- Raises
--   nothing

local cause, ttl_sec, maxlen = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', KEYS[1]) + redis.call('EXISTS', KEYS[2]) == 2 then return {0, ''} end
redis.call('SET', KEYS[1], cause, 'EX', ttl_sec)
redis.call('SET', KEYS[2], cause, 'NX')
local event = redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', maxlen, '*', unpack(ARGV, 4))
return {1, type(event) == 'table' and event.err or ''}
