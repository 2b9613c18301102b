-- A server says that it is alive. ARGV: the server, how long that counts in ms, and '1' if it is new.
-- Answers whether it is alive, and one that is not, if there is one.
local server, time, is_new = unpack(ARGV, 3, 5)
local state, dead = 'dead', ''
local all = servers(function(other, till)
  if till <= clock then
    dead = other
  elseif other == server then
    state = 'alive'
    return clock + time
  end
end)
if is_new == '1' and state == 'dead' then
  state = 'alive'
  all[#all + 1] = server .. ':' .. text(clock + time)
end
if state == 'alive' then redis.call('HSET', hash, 'servers', table.concat(all, ' ')) end
expire()
return answer(state, dead)
