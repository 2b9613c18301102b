-- Ends a run. ARGV: the key, the token, the outcome ('' to forget the key), what that takes, and the
-- time in ms for which it is kept.
local key, token, outcome, size, kept = unpack(ARGV, 3, 7)
local entry = redis.call('HGET', hash, 'k:' .. key)
local state, of, _, _, _, _, _, its_outcome = parse(entry or '')
-- The answer to an earlier attempt may have been lost.
if not entry and outcome == '' then return answer('done') end
if of ~= token then return answer('gone') end
-- The same, or the server counted as dead.
if state == 'end' then return answer(its_outcome == outcome and 'done' or 'gone') end
if outcome == '' then
  remove(key, entry)
else
  finish(key, entry, outcome, size, kept)
end
return answer('done')
