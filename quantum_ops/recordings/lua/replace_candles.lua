-- Replaces the replayed history of one symbol.
--
-- KEYS
--   1   candles    sorted set
-- ARGV
--   1   ttl_sec    its lifetime
--   2   overwrite  1 to replace also candles that are not labelled replay
--   3.. candles    scores and members
-- Returns
--   members written
-- Raises, having written nothing
--   FOREIGN        another writer's candles, or another type

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' is a ' .. kind) end
for _, rank in ipairs({0, -1}) do
  local member = redis.call('ZRANGE', KEYS[1], rank, rank)[1]
  if ARGV[2] ~= '1' and member and not string.find(member, '"source":"replay"', 1, true) then
    return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' holds candles without the label source=replay')
  end
end
redis.call('DEL', KEYS[1])
redis.call('ZADD', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.call('ZCARD', KEYS[1])
