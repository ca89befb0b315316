-- Renews the evaluation time of what was last intended.
--
-- KEYS
--   1   last      hash: what was last intended of the symbol
-- ARGV
--   1   ttl_sec   lifetime of the hash
--   2   expected  intent_id as the caller read it, '*' for whichever
--   3.. values    fields and values to renew
-- Returns
--   1, or 0 when the hash is gone or another intent has been made meanwhile
-- Raises, having written nothing
--   WRONGTYPE     the key is no hash

local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return 0 end
if kind ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind) end
if ARGV[2] ~= '*' and redis.call('HGET', KEYS[1], 'intent_id') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
