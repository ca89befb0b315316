-- Appends one entry to several streams, to all or to none.
--
-- KEYS
--   1.. streams
-- ARGV
--   1   maxlen   cap of the streams
--   2.. entry    fields and values
-- Returns
--   1
-- Raises, having written nothing
--   WRONGTYPE    a key is of another type

for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
for i = 1, #KEYS do redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 2)) end
return 1
