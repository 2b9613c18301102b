-- Appends messages. KEYS: a stream for each topic. ARGV: the limits on topics, on messages and on
-- bytes, the time in ms after which an unused stream leaves; then for each topic its name, a count,
-- and so many payloads.
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

local answers, at = {}, 7
for key = 3, #KEYS do
  local topic, messages = ARGV[at], tonumber(ARGV[at + 1])
  answers[#answers + 1] = append(KEYS[key], topic, at + 2, at + 1 + messages)
  at = at + 2 + messages
end
return { count(), answers }
