-- Ends a log. KEYS: the stream of the topic, and the one that it has once it is closed. ARGV: the
-- topic, the limit on notes, and the time in ms for which readers find the rest.
local topic, limit, time = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local epoch, next, size, is_born, gone = find(topic)
if not is_born then
  if next == 1 then return { count(), '' } end
  put_note(topic, ARGV[2], 1, 0, limit)
  return { count(), epoch .. ':' .. text(next) }
end
local closed = KEYS[4] .. epoch
if redis.call('EXISTS', KEYS[3]) == 1 then
  -- Readers still have to know what was replaced.
  if gone then redis.call('XADD', KEYS[3], text(next) .. '-' .. text(size), 'gone', text(gone)) end
  redis.call('RENAME', KEYS[3], closed)
  redis.call('PEXPIRE', closed, time)
end
redis.call('HDEL', heads, topic)
redis.call('UNLINK', latest_of(topic))
put_note(topic, ARGV[2], 1, 0, limit)
redis.call('PUBLISH', KEYS[3], 'c ' .. epoch .. ' ' .. text(next) .. ' 1 \n')
return { count(), epoch .. ':' .. text(next) }
