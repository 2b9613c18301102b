-- The begin of the scripts of keyed requests. KEYS: the table, a hash.
-- ARGV: an identity that was never used, the time in ms or '' for the clock of Redis, then what the
-- script needs.
--
-- table['']          = "REPLID STORE CLOCK SEEN ENTRIES BYTES HEAD TAIL"
-- table['k:KEY']     = "run TOKEN OWNER BYTES REST METHOD DIGEST", or
--                      "end TOKEN OWNER BYTES REST METHOD DIGEST OUTCOME"
-- table['o:OWNER']   = "ENTRIES BYTES", what the owner has
-- table['e:N']       = "UNTIL KEY", the N-th run that ended, for HEAD <= N < TAIL
-- table['servers']   = "SERVER:UNTIL ...", until when each server counts as alive
--
-- A TOKEN is "SERVER.N": each run has one. REST is what the entry takes without its outcome. Names
-- contain no spaces.
--
-- CLOCK is the time in ms during which there were servers. SEEN is when it was last set. If no script
-- has run for long, only a little of that time counts: no server could say that it was alive.
--
-- Invariant: all is in one hash. So it is complete, or it is gone and STORE is another one.
local hash, LOST, MOST, BEHIND = KEYS[1], 'cut lost', 256, 4000
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local known, store, clock, seen, entries, bytes, head, tail = string.match(
  redis.call('HGET', hash, '') or '', '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')

local now = tonumber(ARGV[2])
local is_given = now ~= nil
if not is_given then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
if known == replid then
  local passed = math.max(0, now - seen)
  clock = clock + (is_given and passed or math.min(passed, BEHIND))
else
  redis.call('UNLINK', hash)
  store, clock, entries, bytes, head, tail = ARGV[1], 0, 0, 0, 0, 0
end
entries, bytes, head, tail = entries + 0, bytes + 0, head + 0, tail + 0

local function text(number)
  return string.format('%.0f', number)
end

-- Writes what was changed, and returns the answer.
local function answer(...)
  local state = { replid, store }
  for _, number in ipairs({ clock, now, entries, bytes, head, tail }) do
    state[#state + 1] = text(number)
  end
  redis.call('HSET', hash, '', table.concat(state, ' '))
  return { store, ... }
end

local function parse(entry)
  return string.match(entry, '^(%a+) (%S+) (%S+) (%d+) (%d+) (%S+) (%x+) ?(.*)$')
end

local function share(owner)
  local held = redis.call('HGET', hash, 'o:' .. owner) or '0 0'
  local owned, size = string.match(held, '^(%d+) (%d+)$')
  return tonumber(owned), tonumber(size)
end

-- An owner has so many entries and bytes more.
local function account(owner, more, size)
  local owned, held = share(owner)
  owned, held = owned + more, held + size
  entries, bytes = entries + more, bytes + size
  if owned == 0 then
    redis.call('HDEL', hash, 'o:' .. owner)
  else
    redis.call('HSET', hash, 'o:' .. owner, text(owned) .. ' ' .. text(held))
  end
end

-- Ends a run. `size` is what the outcome takes.
local function finish(key, entry, outcome, size, kept)
  local _, token, owner, held, rest, method, digest = parse(entry)
  size = rest + size
  account(owner, 0, size - held)
  local words = { 'end', token, owner, text(size), rest, method, digest, outcome }
  redis.call('HSET', hash, 'k:' .. key, table.concat(words, ' '))
  redis.call('HSET', hash, 'e:' .. text(tail), text(clock + kept) .. ' ' .. key)
  tail = tail + 1
end

local function remove(key, entry)
  local _, _, owner, held = parse(entry)
  account(owner, -1, -held)
  redis.call('HDEL', hash, 'k:' .. key)
end

-- Removes outcomes whose time is over. Returns whether there may be more.
local function expire()
  for _ = 1, MOST do
    if head == tail then return false end
    local ended = 'e:' .. text(head)
    local till, key = string.match(redis.call('HGET', hash, ended) or '', '^(%d+) (.+)$')
    if till and tonumber(till) > clock then return false end
    redis.call('HDEL', hash, ended)
    head = head + 1
    local entry = key and redis.call('HGET', hash, 'k:' .. key)
    if entry then remove(key, entry) end
  end
  return true
end

-- Calls `each` with all servers. If it returns a time, the server counts as alive until then; with
-- `false` it is removed.
local function servers(each)
  local left = {}
  for server, till in string.gmatch(redis.call('HGET', hash, 'servers') or '', '(%S+):(%d+)') do
    local new = each(server, tonumber(till))
    if new ~= false then left[#left + 1] = server .. ':' .. text(new or till) end
  end
  return left
end

local function is_alive(server)
  local found = false
  servers(function(other, till)
    if other == server and till > clock then found = true end
  end)
  return found
end
