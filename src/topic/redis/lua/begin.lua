-- The begin of every script. KEYS: the heads, the notes, then what the script needs.
-- ARGV: two epochs that were never used, then what the script needs.
--
-- heads[''] = "REPLID BIRTH", heads[TOPIC] = "EPOCH NEXT SIZE" for each topic with a log.
-- notes[''] = BIRTH, notes[TOPIC] = "EPOCH NEXT SIZE": where a topic begins that has no log.
-- A topic without a log and without a note begins at 1 of BIRTH.
--
-- SIZE counts the bytes of all payloads since the log began. A message has the id NUMBER-SIZE.
--
-- Once a message had a key, heads[TOPIC] = "EPOCH NEXT SIZE GONE HELD". HELD counts the bytes of all
-- payloads and keys in the stream. Numbers from GONE on that are not in the stream were replaced.
-- latest[KEY] is the id of the newest message with the key. If it is lost, older ones stay.
--
-- Invariant: BIRTH is replaced whenever a note or a head may have been lost. So no epoch returns.
local heads, notes = KEYS[1], KEYS[2]
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local known, birth = string.match(redis.call('HGET', heads, '') or '', '^(%S+) (%S+)$')

local function renew_births()
  birth = ARGV[1]
  redis.call('UNLINK', notes)
  redis.call('HSET', heads, '', replid .. ' ' .. birth)
  redis.call('HSET', notes, '', birth)
end

if known ~= replid then
  redis.call('UNLINK', heads)
  renew_births()
end

local function parse(head)
  local pattern = '^(%S+) (%d+) (%d+) ?(%d*) ?(%d*)$'
  local epoch, next, size, gone, held = string.match(head, pattern)
  return epoch, tonumber(next), tonumber(size), tonumber(gone), tonumber(held)
end

local function text(number)
  return string.format('%.0f', number)
end

local function note(topic)
  if redis.call('HGET', notes, '') ~= birth then renew_births() end
  return redis.call('HGET', notes, topic)
end

-- Where the topic goes on, and whether it has a log.
local function find(topic)
  local head = redis.call('HGET', heads, topic)
  local epoch, next, size, gone, held = parse(head or note(topic) or birth .. ' 1 0')
  return epoch, next, size, head, gone, held
end

-- The hash of the newest message of each key.
local function latest_of(topic)
  return string.sub(heads, 1, -#'heads' - 1) .. 'latest:' .. topic
end

local function put_note(topic, epoch, next, size, limit)
  note(topic)
  redis.call('HSET', notes, topic, epoch .. ' ' .. text(next) .. ' ' .. text(size))
  if redis.call('HLEN', notes) > limit + 1 then renew_births() end
end

local function count()
  return redis.call('HLEN', heads) - 1
end

-- The number of the oldest message, its id's size, and the bytes of its payload.
local function oldest(stream)
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not entry then return nil end
  local number, size = string.match(entry[1], '^(%d+)-(%d+)$')
  return tonumber(number), tonumber(size), #entry[2][2]
end
