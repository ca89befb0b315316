-- Acknowledges the entries whose decision this server has. One that was promoted meanwhile may lack the last ones, and an entry
-- that is acknowledged there is never decided.
--
-- KEYS
--   1   plans   stream of plans
--   2.. seen    marker of each plan
-- ARGV
--   1   group   of the governors
--   2.. entries stream entry of each plan, in the order of their markers
-- Returns
--   how many have no decision and stay pending
-- Raises
--   WRONGTYPE   the stream is none

local undecided = 0
for i = 2, #KEYS do
  local marked = redis.call('TYPE', KEYS[i]).ok == 'string' and string.find(redis.call('GET', KEYS[i]), '|', 1, true)
  if marked then redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) else undecided = undecided + 1 end
end
return undecided
