-- Counts plans that were at fault today, each once: one that was counted before, by whoever died before he could acknowledge it,
-- is not counted again.
--
-- KEYS
--   1   faults   hash: errors and bursts of the day, by scope
--   2   errors   set: plans of the day that could not be evaluated
-- ARGV
--   1   ttl_sec  lifetime of both
--   2.. plans    kind (errors, bursts), scope and plan_id of each
-- Returns
--   how many of each plan's kind its scope has had, then how many scopes have had errors
-- Raises
--   WRONGTYPE    a key is of another type

local counts = {}
for i = 2, #ARGV, 3 do
  local kind, scope, plan = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local field = kind .. '|' .. scope
  if redis.call('HSETNX', KEYS[1], kind .. '#' .. plan, '1') == 1 then
    if redis.call('HINCRBY', KEYS[1], field, 1) == 1 then redis.call('HINCRBY', KEYS[1], kind, 1) end
    if kind == 'errors' then redis.call('SADD', KEYS[2], plan) end
  end
  table.insert(counts, tonumber(redis.call('HGET', KEYS[1], field) or '0'))
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
table.insert(counts, tonumber(redis.call('HGET', KEYS[1], 'errors') or '0'))
return counts
