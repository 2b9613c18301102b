-- Says where topics are. KEYS: a stream for each topic. ARGV: the topics.
local answers = {}
for key = 3, #KEYS do
  local epoch, next, _, is_born, gone = find(ARGV[key])
  local first = is_born and oldest(KEYS[key])
  first = first and gone or first or next
  answers[#answers + 1] = epoch .. ':' .. text(next) .. ' ' .. text(first)
end
return { count(), answers }
