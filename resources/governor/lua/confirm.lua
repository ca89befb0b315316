-- Brings a guard up to date that needs a second reading: waits for one, activates the guard with it, or ends the wait.
--
-- KEYS
--   1  guard     the guard
--   2  events    stream of risk events
--   3  readings  hash: what is kept between readings
-- ARGV
--   1  JSON
--      guard                   its type
--      source                  of the guards that are ours
--      holds                   whether its condition does: yes, no or unknown
--      ts, now                 text, epoch s: the writer's clock, and ours
--      confirm_sec, forget_sec seconds until a second reading confirms, and until a first one is forgotten
--      waiting, waiting_sec    the guard before a second reading, and its lifetime
--      active, active_sec      the guard after it, and its lifetime
--      events                  flat lists: waiting, recovered, and a list of them: activated
--      cap, kept_sec           of the stream, and lifetime of what is kept
-- Returns
--   1 when a second reading has confirmed it, 2 while it waits for one, 3 when a newer reading was within the limit, 0 when there
--   was nothing to do or the guard lives already, whoever set it
-- Raises, having written nothing
--   WRONGTYPE  a key is of another type

for number, wanted in pairs({[2] = 'stream', [3] = 'hash'}) do
  local kind = redis.call('TYPE', KEYS[number]).ok
  if kind ~= wanted and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[number] .. ' is a ' .. kind) end
end
local a = cjson.decode(ARGV[1])
local ts, now = tonumber(a.ts), tonumber(a.now)
local function announce(event)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', a.cap, '*', unpack(event))
end
local kind, standing = redis.call('TYPE', KEYS[1]).ok, nil
if kind == 'string' then
  local readable, guard = pcall(cjson.decode, redis.call('GET', KEYS[1]))
  if readable and type(guard) == 'table' and guard.source == a.source and guard.pending == true then standing = guard end
end
if kind ~= 'none' and not standing then
  redis.call('HDEL', KEYS[3], a.guard)
  return 0
end
-- first reading beyond the limit (the writer's clock, when it was evaluated), last one, since when the guard stands
local kept = redis.call('HGET', KEYS[3], a.guard) or ''
local first, first_at, last, since = string.match(kept, '^(%S+) (%S+) (%S+) (%S+)$')
local known = first ~= nil and now >= tonumber(first_at) and now - tonumber(last) <= a.forget_sec
if a.holds ~= 'yes' and first == nil then return 0 end
if a.holds == 'no' and ts > tonumber(last) then
  redis.call('DEL', KEYS[1])
  redis.call('HDEL', KEYS[3], a.guard)
  announce(a.events.recovered)
  return 3
end
if a.holds == 'yes' then
  if not known then
    first, first_at, last = a.ts, a.now, a.ts
  elseif ts < tonumber(first) then -- an older one that came late: what ends the wait must still be newer than the newest
    first, first_at = a.ts, a.now
  elseif ts - tonumber(first) >= a.confirm_sec and now - tonumber(first_at) >= a.confirm_sec then
    redis.call('SET', KEYS[1], cjson.encode(a.active), 'EX', a.active_sec)
    redis.call('HDEL', KEYS[3], a.guard)
    for _, event in ipairs(a.events.activated) do
      for _, part in ipairs({'first_reading', first, 'reading', a.ts}) do table.insert(event, part) end
      announce(event)
    end
    return 1
  end
  if ts > tonumber(last) then last = a.ts end
  if not since then announce(a.events.waiting) end
  since = since or a.waiting.activated_at
else
  a.waiting.reason = standing and standing.reason or a.waiting.reason
end
a.waiting.activated_at = since
redis.call('SET', KEYS[1], cjson.encode(a.waiting), 'EX', a.waiting_sec)
redis.call('HSET', KEYS[3], a.guard, table.concat({first, first_at, last, since}, ' '))
redis.call('EXPIRE', KEYS[3], a.kept_sec)
return 2
