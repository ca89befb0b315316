-- Makes one trade intent: what was last intended, the pending intent and the plan that asks the governor, all of them or none.
--
-- KEYS
--   1  last     hash: what was last intended of the symbol
--   2  pending  hash: the intent; only when something is intended
--   3  plans    stream of plans; only when that becomes a plan
-- ARGV
--   1  JSON
--      expected  intent_id of the last one as the caller read it, empty for none
--      parts     for each key: lifetime_or_cap (s, or of the stream), fields (and values, flat)
-- Returns
--   1, or 0 when another intent has been made meanwhile
-- Raises, having written nothing
--   WRONGTYPE  a key is of another type

local wanted = {'hash', 'hash', 'stream'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= wanted[i] and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
local intent = cjson.decode(ARGV[1])
if (redis.call('HGET', KEYS[1], 'intent_id') or '') ~= intent.expected then return 0 end
for i, part in ipairs(intent.parts) do
  if wanted[i] == 'hash' then
    redis.call('HSET', KEYS[i], unpack(part.fields))
    redis.call('EXPIRE', KEYS[i], part.lifetime_or_cap)
  else
    redis.call('XADD', KEYS[i], 'MAXLEN', '~', part.lifetime_or_cap, '*', unpack(part.fields))
  end
end
return 1
