-- Adds to counts, once for each stretch between two cursors.
--
-- KEYS
--   1   counts  hash
-- ARGV
--   1   before  its cursor as the caller read it, '' for none
--   2   after   the new cursor
--   3   recent  value of the field _recent
--   4.. added   fields and what to add to each
-- Returns
--   1, or 0 when somebody else has counted meanwhile
-- Raises
--   WRONGTYPE   the key is no hash
--   ERR         a field is no number: what comes after it is lost, and nothing is ever counted twice

if (redis.call('HGET', KEYS[1], '_cursor') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], '_cursor', ARGV[2], '_recent', ARGV[3])  -- first: a script that fails may lose, never double
for index = 4, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[index], ARGV[index + 1]) end
return 1
