-- Writes an example position, target or efficiency over an older one.
--
-- KEYS
--   1   hash
-- ARGV
--   1   ttl_sec  its lifetime
--   2.. values   fields and values, among them source=example
-- Returns
--   1
-- Raises, having written nothing
--   FOREIGN      another writer's data, or another type

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' is a ' .. kind) end
if kind == 'hash' and redis.call('HGET', KEYS[1], 'source') ~= 'example' then
  return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' carries data of another writer (no source=example)')
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
