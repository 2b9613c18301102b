-- Looks a key up, and enters it if it is new. ARGV: the identity that the client was told ('' for
-- none), the key, the token, the owner, the method, the digest, the bytes that the entry may take,
-- those without an outcome, the limits on entries and on bytes, and the time in ms for which an
-- outcome is kept.
local told, key, token, owner, method, digest = unpack(ARGV, 3, 8)
local size, rest, most, most_bytes, kept = unpack(ARGV, 9, 13)
size = tonumber(size)
if told ~= '' and told ~= store then return answer('moved') end
local more = expire()
local entry = redis.call('HGET', hash, 'k:' .. key)
if entry then
  local state, of, _, _, _, its_method, its_digest, outcome = parse(entry)
  if method ~= its_method or digest ~= its_digest then return answer('mismatch') end
  if state == 'end' then return answer('end', outcome) end
  if is_alive(string.match(of, '^[^.]+')) then return answer('running', of) end
  finish(key, entry, LOST, 0, kept)
  return answer('end', LOST)
end
if not is_alive(string.match(token, '^[^.]+')) then return answer('dead') end
local function has_room()
  local free, free_bytes = most - entries, most_bytes - bytes
  local owned, held = share(owner)
  return free > 0 and size <= free_bytes and owned <= free and held <= free_bytes
end
while not has_room() do
  if not more then return answer('full') end
  more = expire()
end
account(owner, 1, size)
local words = { 'run', token, owner, text(size), rest, method, digest }
redis.call('HSET', hash, 'k:' .. key, table.concat(words, ' '))
return answer('run')
