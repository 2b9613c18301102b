-- Drops logs whose stream is gone. KEYS: the begin of the names of streams. ARGV: where to go on,
-- and the limit on notes.
local found = redis.call('HSCAN', heads, ARGV[3], 'COUNT', 256)
for at = 1, #found[2], 2 do
  local topic, head = found[2][at], found[2][at + 1]
  if topic ~= '' and redis.call('EXISTS', KEYS[3] .. topic) == 0 then
    local epoch, next, size = parse(head)
    redis.call('HDEL', heads, topic)
    redis.call('UNLINK', latest_of(topic))
    put_note(topic, epoch, next, size, tonumber(ARGV[4]))
  end
end
return { count(), found[1] }
