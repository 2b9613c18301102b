-- Appends a message, unless its producer has done so. KEYS: the stream, and the hash of the producer.
-- ARGV, behind the limits: the topic, the payload, the number that the producer gave, and the time in
-- ms for which it is known. The answer 'old' says that the producer has used a later number.
--
-- producer[TOPIC] = "REPLID NUMBER POSITION". With another REPLID, the message may have been lost.
local stream, producer, topic, number, time = KEYS[3], KEYS[4], ARGV[7], ARGV[9], ARGV[10]
local known = redis.call('HGET', producer, topic) or ''
local of, last, position = string.match(known, '^(%S+) (%d+) (%S+)$')
if of == replid then
  if last == number then return { count(), position } end
  -- As texts, because a number of Lua has 53 bits.
  if #last > #number or #last == #number and last > number then return { count(), 'old' } end
end
position = append(stream, topic, 8, 8, nil)
if position ~= '' then
  redis.call('HSET', producer, topic, replid .. ' ' .. number .. ' ' .. position)
  redis.call('PEXPIRE', producer, time)
end
return { count(), position }
