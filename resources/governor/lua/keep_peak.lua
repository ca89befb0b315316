-- Keeps the peak of the equity: one that rose by more than one reading may raise it waits for a second reading near it.
--
-- KEYS
--   1  readings  hash: what is kept between readings. The field holds the peak known, and of a jump that waits: peak, the
--                writer's clock and when it was evaluated
-- ARGV
--   1  JSON
--      field        of the peak
--      peak         text
--      rose         whether it rose by more than one reading may raise it
--      near         whether the equity is near it
--      ts, now      text, epoch s: the writer's clock, and ours
--      confirm_sec  seconds until a second reading confirms it
--      ttl_sec      lifetime of what is kept
-- Returns
--   1
-- Raises
--   WRONGTYPE  the key is no hash

local a = cjson.decode(ARGV[1])
local known, jump, ts, at = string.match(redis.call('HGET', KEYS[1], a.field) or '', '^(%S+) (%S+) (%S+) (%S+)$')
local rose = a.rose and known ~= nil
local written, now = tonumber(a.ts), tonumber(a.now)
if rose and a.near and jump ~= '-' and written >= tonumber(ts) and now >= tonumber(at) then
  if written - tonumber(ts) >= a.confirm_sec and now - tonumber(at) >= a.confirm_sec then rose = false end
elseif rose and a.near then
  jump, ts, at = a.peak, a.ts, a.now
elseif rose then
  jump, ts, at = '-', '-', '-'
end
if not rose then known, jump, ts, at = a.peak, '-', '-', '-' end
redis.call('HSET', KEYS[1], a.field, table.concat({known, jump, ts, at}, ' '))
redis.call('EXPIRE', KEYS[1], a.ttl_sec)
return 1
