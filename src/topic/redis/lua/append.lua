-- Appends messages. KEYS: a stream for each topic. ARGV, behind the limits: for each topic its name,
-- a count, and so many payloads.
local answers, at = {}, 7
for key = 3, #KEYS do
  local topic, messages = ARGV[at], tonumber(ARGV[at + 1])
  answers[#answers + 1] = append(KEYS[key], topic, at + 2, at + 1 + messages)
  at = at + 2 + messages
end
return { count(), answers }
