-- Appends messages. KEYS: a stream for each topic. ARGV, behind the limits: for each topic its name,
-- a count, and so many payloads; then a count of keys, and for each the index of its payload and the
-- key.
local answers, at = {}, 7
for stream = 3, #KEYS do
  local topic, from = ARGV[at], at + 2
  local to = at + 1 + tonumber(ARGV[at + 1])
  at = to + 2
  local keys
  for _ = 1, tonumber(ARGV[to + 1]) do
    keys = keys or {}
    keys[from + tonumber(ARGV[at])] = ARGV[at + 1]
    at = at + 2
  end
  answers[#answers + 1] = append(KEYS[stream], topic, from, to, keys)
end
return { count(), answers }
