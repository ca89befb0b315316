-- Writes candles of one symbol; those of the same time are replaced.
--
-- KEYS
--   1   candles  sorted set by opening time
-- ARGV
--   1   JSON
--       ttl_sec    its lifetime
--       kept       candles kept
--       take_over  whether to take over what another writer has labelled
--       since_ms   text: a time
--       label      ours as it stands in each member
--   2.. candles  times and members
-- Returns
--   candles there are now from since_ms on
-- Raises, having written nothing
--   FOREIGN      another writer's label, or another type

local a = cjson.decode(ARGV[1])
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' is a ' .. kind) end
local newest = redis.call('ZRANGE', KEYS[1], -1, -1)[1]
local foreign = newest and not string.find(newest, a.label, 1, true)
if foreign and not a.take_over then
  return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' holds candles of another writer, market or length (no ' .. a.label .. ')')
end
if foreign then redis.call('DEL', KEYS[1]) end
for index = 2, #ARGV, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[1], ARGV[index], ARGV[index])
  redis.call('ZADD', KEYS[1], ARGV[index], ARGV[index + 1])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -a.kept - 1)
redis.call('EXPIRE', KEYS[1], a.ttl_sec)
return redis.call('ZCOUNT', KEYS[1], a.since_ms, '+inf')
