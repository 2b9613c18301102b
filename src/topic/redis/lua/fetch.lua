-- Reads messages. KEYS: the stream of the topic, and the one that it has once it is closed.
-- ARGV: the topic, its epoch, the first number, and the bytes to read. Also answers with the first and
-- the last number of what was replaced before each message.
local epoch, _, _, is_born, gone = find(ARGV[3])
local is_there = epoch == ARGV[4]
-- Without a log, the stream may be one of an epoch that has ended.
local stream = is_there and is_born and KEYS[3] or KEYS[4]
local from, limit = ARGV[5], tonumber(ARGV[6])
local found, replaced, bytes, some = {}, {}, 0, 1
if stream == KEYS[4] then
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  gone = last and last[2][1] == 'gone' and tonumber(last[2][2])
end
while bytes < limit do
  local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', some)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local number = string.match(entry[1], '^(%d+)-')
    local missing = gone and math.max(gone, tonumber(from))
    if missing and missing < tonumber(number) then
      replaced[#replaced + 1] = text(missing)
      replaced[#replaced + 1] = text(tonumber(number) - 1)
    end
    -- The end of a log that was closed is no message.
    if entry[2][1] ~= '' then return { is_there and 1 or 0, found, replaced } end
    bytes = bytes + #entry[2][2] + 1
    found[#found + 1] = number
    found[#found + 1] = entry[2][2]
    from = text(tonumber(number) + 1)
    if bytes >= limit then break end
  end
  -- As many as are expected to fit, but not many more bytes at a time than were read already.
  some = math.max(1, math.min(#found / 2, math.ceil((limit - bytes) * #found / 2 / bytes)))
end
return { is_there and 1 or 0, found, replaced }
