-- Decides one plan: counts it against the limits and writes all that follows from it, or nothing. Of a plan that opens risk the
-- switches are read here again, outside a cluster: what was activated since the evidence was read still counts.
--
-- KEYS
--   1  seen      marker of the plan
--   2  permit    string or hash
--   3  block     hash
--   4  granted   permits of the symbol and of the plan's kind, opening or closing: list of epoch s, newest first
--   5  today     amount permitted to the symbol today, of that kind
--   6  events    stream of the governor's events
--   only for plans that open risk, and not in a cluster, where they are in other slots:
--   7  kill      kill switch
--   8  disarmed  mark of the disarmed governor
--   9  scopes    hash: planners and symbols that are disarmed
--   10..         risk guards, any type
-- ARGV
--   1  JSON; what must stay exact is text
--      entry_id            stream entry of the plan
--      now                 text, epoch s
--      taken_at            text, epoch s by the server's clock: when the plan was taken from the stream
--      decided_within_sec  largest age of the evidence for a grant, s
--      counted             false: refused without counting, even where its marker or counts are of another type
--      reason              of a failed gate before the limits, or empty
--      reason_beyond       of a failed gate after the limits, or empty
--      amount              text: what the plan adds to today, empty where nobody knows
--      per_hour, per_burst permits allowed in hour_sec and in burst_sec
--      hour_sec, burst_sec windows of these
--      per_day             text: amount allowed in a day
--      limits              reasons of the three limits, in that order
--      switches            reasons of KEYS 7.., in their order
--      scopes              scopes the plan lies in
--      permit              what becomes of it when granted: one string, or fields and values, flat
--      block, event        fields and values, flat; the script adds what only it knows
--      digests             of the block, by reason
--      gates               number of the gate, by reason
--      seen_ttl_sec, permit_ttl_sec, block_ttl_sec, events_maxlen
-- Returns
--   {1, reason or empty, permits in the hour, in the burst and amount today before, the same three after}
--   {0, reason or empty}  decided before; the reason only if this same stream entry was decided
--   {2}                   nothing written: it would be granted by older evidence
-- Raises, having written nothing
--   WRONGTYPE  a key is of another type, or holds something else than a marker, times or an amount

local GRANTED_KEPT, GRANTED_TTL_SEC, TODAY_TTL_SEC = 100, 86400, 172800
local KILL, SCOPES = 7, 9

local seen_key, permit_key, block_key, granted_key, today_key, events_key = unpack(KEYS, 1, 6)
local args = cjson.decode(ARGV[1])
local now = tonumber(args.now)

local wanted = {'string', nil, nil, 'list', 'string', 'stream', 'string'}  -- permit and block are overwritten; guards may be of any type
local kinds = {}
for i = 1, #KEYS do
  kinds[i] = redis.call('TYPE', KEYS[i]).ok
  local forgiven = i == 1 and not args.counted
  if wanted[i] and not forgiven and kinds[i] ~= wanted[i] and kinds[i] ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kinds[i])
  end
end

local seen = kinds[1] == 'string' and redis.call('GET', seen_key)
if seen then
  local entry, earlier = string.match(seen, '^(.-)|(.*)$')  -- entry|reason
  if entry then return {0, entry == args.entry_id and earlier or ''} end
  if args.counted then return redis.error_reply('WRONGTYPE ' .. seen_key .. ' is no marker of a decision') end
end

local hour, burst = 0, 0
for _, text in ipairs(redis.call('LRANGE', granted_key, 0, -1)) do
  local when = tonumber(text)
  if not when or when ~= when or when == -math.huge then
    return redis.error_reply('WRONGTYPE ' .. granted_key .. ' holds something else than times')
  end
  if now - when < args.hour_sec then hour = hour + 1 end
  if now - when < args.burst_sec then burst = burst + 1 end
end
local today = redis.call('GET', today_key) or '0'
local day, amount = tonumber(today), tonumber(args.amount)
if not day or not string.match(today, '^%d+%.?%d*$') then  -- tonumber takes hex and blanks, INCRBYFLOAT does not
  return redis.error_reply('WRONGTYPE ' .. today_key .. ' holds something else than an amount')
end

local reason, activated = args.reason, ''
for i = KILL, #KEYS do
  local on = reason == '' and kinds[i] ~= 'none'
  if on and i == KILL then
    local kill = redis.call('GET', KEYS[i])
    on = kill ~= '' and kill ~= '0'
  elseif on and i == SCOPES and kinds[i] == 'hash' then
    on = false
    for _, scope in ipairs(args.scopes) do on = on or redis.call('HEXISTS', KEYS[i], scope) == 1 end
  end
  if on then
    activated = args.switches[i - KILL + 1]
    reason = activated
  end
end
if reason == '' then
  if hour >= args.per_hour then reason = args.limits[1]
  elseif burst >= args.per_burst then reason = args.limits[2]
  elseif not amount or not (day + amount <= tonumber(args.per_day)) then reason = args.limits[3]
  else reason = args.reason_beyond end
end
local granted = reason == ''
local time = redis.call('TIME')
if granted and not (time[1] + time[2] / 1e6 - tonumber(args.taken_at) <= args.decided_within_sec) then return {2} end

local hour_after, burst_after, today_after = hour, burst, today
if granted then  -- a script that fails half-way is not undone: counts first, the permit last
  today_after = redis.call('INCRBYFLOAT', today_key, args.amount)
  redis.call('EXPIRE', today_key, TODAY_TTL_SEC)
  redis.call('LPUSH', granted_key, args.now)
  redis.call('LTRIM', granted_key, 0, GRANTED_KEPT - 1)
  redis.call('EXPIRE', granted_key, GRANTED_TTL_SEC)
  hour_after, burst_after = hour + 1, burst + 1
end
redis.call('XADD', events_key, 'MAXLEN', '~', args.events_maxlen, '*', 'event', granted and 'PERMIT' or 'BLOCK',
  'granted', granted and '1' or '0', 'reason', reason, 'gate', tostring(args.gates[reason] or ''),
  'permits_hour', hour, 'permits_5min', burst, 'day_total', today,
  'permits_hour_after', hour_after, 'permits_5min_after', burst_after, 'day_total_after', today_after,
  'thrown_meanwhile', activated, unpack(args.event))
redis.call('SET', seen_key, args.entry_id .. '|' .. reason, 'EX', args.seen_ttl_sec)
redis.call('DEL', permit_key, block_key)
if not granted then
  redis.call('HSET', block_key, 'reason', reason, 'digest', args.digests[reason], unpack(args.block))
  redis.call('EXPIRE', block_key, args.block_ttl_sec)
elseif type(args.permit) == 'string' then
  redis.call('SET', permit_key, args.permit, 'EX', args.permit_ttl_sec)
else
  redis.call('HSET', permit_key, unpack(args.permit))
  redis.call('EXPIRE', permit_key, args.permit_ttl_sec)
end
return {1, reason, hour, burst, today, hour_after, burst_after, today_after}
