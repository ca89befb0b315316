-- Publishes one row: hash, lifetime and stream entries at once, so that no reader ever sees half of it. The whole hash is replaced:
-- a field that somebody else has written beside ours does not stay.
--
-- KEYS
--   1   hash      of the table
--   2.. streams   or absent
-- ARGV
--   1   ttl_sec   lifetime of the hash
--   2   expected  published_at_utc as the caller read it, '' for no hash, '*' for whatever is there
--   3   count     of the values
--   4.. values    fields and values of the hash; then, with KEYS 2, the cap of the streams, and the entry's fields and values
--                 (flat, and no JSON: the values of a whole cycle pass here)
-- Returns
--   1, or 0 when somebody else has published meanwhile
-- Raises, having written nothing
--   WRONGTYPE     a key is of another type

local ttl_sec, expected, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind) end
for i = 2, #KEYS do
  kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
if expected ~= '*' and (redis.call('HGET', KEYS[1], 'published_at_utc') or '') ~= expected then return 0 end
local last = 3 + count
if expected == '*' or redis.call('HLEN', KEYS[1]) > count / 2 then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 4, last))
redis.call('EXPIRE', KEYS[1], ttl_sec)
for i = 2, #KEYS do redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[last + 1], '*', unpack(ARGV, last + 2)) end
return 1
