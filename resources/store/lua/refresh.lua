-- Renews evaluation time and lifetime of a row that was published before.
--
-- KEYS
--   1   hash          of the table
-- ARGV
--   1   ttl_sec       lifetime of the hash
--   2   published_at  published_at_utc the caller decided on
--   3.. values        fields and values to renew
-- Returns
--   1, or 0 when the hash is gone or was published by somebody else meanwhile
-- Raises
--   WRONGTYPE         the key is no hash

if redis.call('HGET', KEYS[1], 'published_at_utc') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
