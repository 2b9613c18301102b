-- Ends a run. ARGV: the key, the token, the outcome ('' to forget the key), what that takes, and the
-- time in ms for which it is kept.
local key, token, outcome, size, kept = unpack(ARGV, 3, 7)
local entry = redis.call('HGET', hash, 'k:' .. key)
local state, of, _, _, _, _, _, its_outcome = parse(entry or '')
if of ~= token then return answer('gone') end
-- The answer to an earlier attempt was lost, or the server counted as dead.
if state == 'end' then return answer(its_outcome == outcome and 'done' or 'gone') end
if outcome == '' then
  remove(key, entry)
else
  finish(key, entry, outcome, size, kept)
end
return answer('done')
