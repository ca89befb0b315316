-- Takes or renews the lease of the cycle, and announces the cycles about to be requested.
--
-- KEYS
--   1  lease   who runs the cycle
--   2  rival   who is on standby
--   3  cycles  hash: newest cycle of each symbol
-- ARGV
--   1  JSON
--      owner     who asks
--      renew     whether the lease is wanted; false to look only
--      lease_ms  lifetime of the lease
--      most_ms   the longest lifetime of a lease: what has none, or a longer one, is no lease and is given that one
--      rival_sec lifetime of the rival
--      cycles    symbols and their new cycles, flat
-- Returns
--   the holder, or the owner when there is none; only then the lease was taken or renewed, and the cycles were noted
-- Raises
--   WRONGTYPE  a key is of another type

local a = cjson.decode(ARGV[1])
local lives = redis.call('PTTL', KEYS[1])
if lives == -1 or lives > a.most_ms then redis.call('PEXPIRE', KEYS[1], a.most_ms) end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= a.owner then
  redis.call('SET', KEYS[2], a.owner, 'EX', a.rival_sec)
  return holder
end
if a.renew then redis.call('SET', KEYS[1], a.owner, 'PX', a.lease_ms) end
for i = 1, #a.cycles, 2 do redis.call('HSET', KEYS[3], a.cycles[i], a.cycles[i + 1]) end
return a.owner
