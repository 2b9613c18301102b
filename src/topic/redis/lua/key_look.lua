-- Says how a run ended. ARGV: the key, the token, and the time in ms for which an outcome is kept.
local key, token, kept = unpack(ARGV, 3, 5)
local entry = redis.call('HGET', hash, 'k:' .. key)
if not entry then return answer('gone') end
local state, of, _, _, _, _, _, outcome = parse(entry)
if of ~= token then return answer('gone') end
if state == 'end' then return answer('end', outcome) end
if is_alive(string.match(of, '^[^.]+')) then return answer('running', of) end
finish(key, entry, LOST, 0, kept)
return answer('end', LOST)
