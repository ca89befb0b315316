-- Reads the next entries of a stream, bounded whatever they hold: one entry may be as large as the server's memory.
--
-- KEYS
--   1   stream
-- ARGV
--   1   after     id of the last entry that was read
--   2   count     entries wanted
--   3   bytes     after so many no further entry is read
--   4   fields    of one entry that are read
--   5   value     bytes of one name or value that are read
-- Returns
--   {last id of the stream where it has nothing behind the one given, else '', entries in order}, each entry {id, bytes in all,
--   fields in all, name, value ...}
-- Raises
--   WRONGTYPE     it is no stream

local entries, after, left, value = {}, ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5])
for _ = 1, tonumber(ARGV[2]) do
  local entry = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 1)[1]
  if not entry or left <= 0 then break end
  local fields, bytes, read = entry[2], 0, { entry[1], '0', tostring(#entry[2] / 2) }
  for i = 1, #fields do
    bytes = bytes + #fields[i]
    if i <= 2 * tonumber(ARGV[4]) then
      read[#read + 1] = string.sub(fields[i], 1, value)
      left = left - #read[#read]
    end
  end
  read[2] = string.format('%d', bytes)
  entries[#entries + 1], after = read, entry[1]
end
local last = ''
if #entries == 0 and redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
return { last, entries }
