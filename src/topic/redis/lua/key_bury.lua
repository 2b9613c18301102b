-- Ends the runs of a dead server, some of them. ARGV: the server, where to go on, and the time in ms
-- for which an outcome is kept. Answers where to go on; '0' at the end.
local server, at, kept = unpack(ARGV, 3, 5)
local found = redis.call('HSCAN', hash, at, 'MATCH', 'k:*', 'COUNT', MOST)
for at = 1, #found[2], 2 do
  local key, entry = string.sub(found[2][at], 3), found[2][at + 1]
  local state, token = parse(entry)
  if state == 'run' and string.match(token, '^[^.]+') == server then
    finish(key, entry, LOST, 0, kept)
  end
end
if found[1] == '0' then
  local left = servers(function(other)
    if other == server then return false end
  end)
  redis.call('HSET', hash, 'servers', table.concat(left, ' '))
end
return answer(found[1])
