-- How messages are appended. ARGV: the limits on topics, on messages and on bytes, and the time in ms
-- after which an unused stream leaves; then what the script needs.
local topics, messages, bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local expiry, MAX = ARGV[6], 9007199254740991

-- Drops the oldest messages over the limits. The newest one stays. Returns the oldest number.
local function trim(stream, next, size)
  redis.call('XTRIM', stream, 'MAXLEN', '=', messages)
  while true do
    local number, at, length = oldest(stream)
    if number + 1 >= next or size - at + length <= bytes then return number end
    redis.call('XTRIM', stream, 'MINID', '=', text(number + 1))
  end
end

-- The same for a log with keys. Returns also the bytes that it holds.
local function trim_latest(stream, latest, gone, held)
  local count = redis.call('XLEN', stream)
  while count > 1 and (count > messages or held > bytes) do
    local id, fields = unpack(redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1])
    redis.call('XDEL', stream, id)
    if fields[4] and redis.call('HGET', latest, fields[4]) == id then
      redis.call('HDEL', latest, fields[4])
    end
    gone = tonumber(string.match(id, '^(%d+)')) + 1
    held, count = held - #fields[2] - #(fields[4] or ''), count - 1
  end
  return gone, held
end

-- Removes the message with this key. Returns its bytes.
local function replace(stream, latest, key)
  local id = redis.call('HGET', latest, key)
  local entry = id and redis.call('XRANGE', stream, id, id)[1]
  if not entry or entry[2][4] ~= key then return 0 end
  redis.call('XDEL', stream, id)
  return #entry[2][2] + #key
end

-- Appends the payloads in ARGV. `keys` has the keys of those that have one; nil if none has. Returns
-- the position of the first; '' if there is no room.
local function append(stream, topic, from, to, keys)
  local epoch, first, size, is_born, gone, held = find(topic)
  local next, latest = first, latest_of(topic)
  if first + to - from >= MAX or not is_born and count() >= topics then return '' end
  if not is_born then redis.call('UNLINK', stream, latest) end
  if gone or keys then
    local number, at, length = oldest(stream)
    -- Without a stream, all that it had is lost.
    if not number then
      gone, held = first, 0
    elseif not gone then
      gone, held = number, size - at + length
    end
  end
  local lengths, parts = {}, {}
  for at = from, to do
    local payload, key = ARGV[at], keys and keys[at]
    size = size + #payload
    lengths[#lengths + 1] = #payload
    parts[#parts + 1] = payload
    local id = text(next) .. '-' .. text(size)
    if key then
      held = held - replace(stream, latest, key) + #key
      redis.call('XADD', stream, id, '', payload, 'key', key)
      redis.call('HSET', latest, key, id)
      lengths[#lengths] = #payload .. '+' .. #key
      parts[#parts + 1] = key
    else
      redis.call('XADD', stream, id, '', payload)
    end
    held = held and held + #payload
    next = next + 1
  end
  local head, oldest = epoch .. ' ' .. text(next) .. ' ' .. text(size)
  if gone then
    oldest, held = trim_latest(stream, latest, gone, held)
    head = head .. ' ' .. text(oldest) .. ' ' .. text(held)
  else
    oldest = trim(stream, next, size)
  end
  if expiry ~= '0' then
    redis.call('PEXPIRE', stream, expiry)
    if gone then redis.call('PEXPIRE', latest, expiry) end
  end
  redis.call('HSET', heads, topic, head)
  local begin = 'm ' .. epoch .. ' ' .. text(first) .. ' ' .. text(oldest) .. ' '
  redis.call('PUBLISH', stream, begin .. table.concat(lengths, ',') .. '\n' .. table.concat(parts))
  return epoch .. ':' .. text(first)
end
