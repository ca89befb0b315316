-- Sets, renews or removes a guard of ours that lives as long as its condition holds; since when it stands is kept.
--
-- KEYS
--   1  guard    the guard
-- ARGV
--   1  wanted   the guard as JSON, empty when its condition is over
--   2  ttl_sec  lifetime of the guard
--   3  source   of the guards that are ours
-- Returns
--   1 when it was set, renewed or removed, 0 when there was nothing to do or it is not ours
-- Raises
--   nothing: what is no string is somebody else's

local wanted, ttl_sec, source = ARGV[1], ARGV[2], ARGV[3]
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  if wanted == '' then return 0 end
  redis.call('SET', KEYS[1], wanted, 'EX', ttl_sec)
  return 1
end
if kind ~= 'string' then return 0 end
local readable, standing = pcall(cjson.decode, redis.call('GET', KEYS[1]))
if not readable or type(standing) ~= 'table' or standing.source ~= source then return 0 end
if wanted == '' then return redis.call('DEL', KEYS[1]) end
local renewed = cjson.decode(wanted)
renewed.activated_at = standing.activated_at or renewed.activated_at
redis.call('SET', KEYS[1], cjson.encode(renewed), 'EX', ttl_sec)
return 1
