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

-- Appends the payloads in ARGV. Returns the position of the first; '' if there is no room.
local function append(stream, topic, from, to)
  local epoch, first, size, is_born = find(topic)
  local next = first
  if first + to - from >= MAX or not is_born and count() >= topics then return '' end
  if not is_born then redis.call('UNLINK', stream) end
  local lengths = {}
  for at = from, to do
    local payload = ARGV[at]
    size = size + #payload
    lengths[#lengths + 1] = #payload
    redis.call('XADD', stream, text(next) .. '-' .. text(size), '', payload)
    next = next + 1
  end
  local oldest = trim(stream, next, size)
  if expiry ~= '0' then redis.call('PEXPIRE', stream, expiry) end
  redis.call('HSET', heads, topic, epoch .. ' ' .. text(next) .. ' ' .. text(size))
  local begin = 'm ' .. epoch .. ' ' .. text(first) .. ' ' .. text(oldest) .. ' '
  local payloads = table.concat(ARGV, '', from, to)
  redis.call('PUBLISH', stream, begin .. table.concat(lengths, ',') .. '\n' .. payloads)
  return epoch .. ':' .. text(first)
end
