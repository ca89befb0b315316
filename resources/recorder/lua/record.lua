-- Appends one record to the stream, with the next number; or refuses one that continues what another process has recorded.
--
-- KEYS
--   1   stream    of records
--   2   writers   slot to the token of the process that recorded it last (hash)
--   3   seq       number of the last record
-- ARGV
--   1   token     of the process that appends
--   2   slot      what it records, e.g. an asset and the first symbol of a shard
--   3   full      1: the record has everything there is; else it says what changed since the last one of this process
--   4   maxlen    cap of the stream
--   5.. entry     fields and values, which may be binary
-- Returns
--   the number of the record, or 0 when it is refused: the process must send it again in full
-- Raises, having written nothing
--   WRONGTYPE     a key is of another type
--   BROKEN        what stands where the number should is no whole number

local token, slot, full = ARGV[1], ARGV[2], ARGV[3] == '1'
for i, type in ipairs({ 'stream', 'hash', 'string' }) do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= type and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
if not string.match(redis.call('GET', KEYS[3]) or '0', '^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then
  return redis.error_reply('BROKEN ' .. KEYS[3] .. ' is no number')
end
if not full and redis.call('HGET', KEYS[2], slot) ~= token then return 0 end
redis.call('HSET', KEYS[2], slot, token)
local seq = redis.call('INCR', KEYS[3])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'seq', seq, unpack(ARGV, 5))
return seq
