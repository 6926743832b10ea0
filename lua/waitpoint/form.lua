-- The form in which a waitpoint is stored: what most have by position, without names, msgpack values in a row; nil where
-- there is none. The other fields are a map behind them. Earlier builds stored a map.
--
-- A journal's waits mostly have a waitpoint that is called like their entry (`signal:<key>`), and wait for a signal that
-- is called so too: then key and condition are stored as true. A waitpoint without signals has no tally.
--
-- Needs: Records.

local FORM = 1

local function open(packed)
  local _, execution_id, attempt, key, state, created, seq, condition, entry, rest = unpack_msg(packed)
  if key == true then key = string.sub(entry, #'signal:' + 1) end
  if condition == true then condition = { name = key } end
  local w = rest or {}
  w.execution_id, w.attempt, w.key, w.state, w.created_at = execution_id, attempt, key, state, created
  w.seq, w.condition, w.entry = seq, condition, entry
  if execution_id then w.tally, w.n, w.bytes = w.tally or {}, w.n or 0, w.bytes or 0 end
  return w
end

-- Return whether a condition is nothing but the name of a signal.
local function is_name(condition, name) return condition and condition.name == name and next(condition, next(condition)) == nil end

local function close(w)
  local execution_id, attempt, key, state, created = w.execution_id, w.attempt, w.key, w.state, w.created_at
  local seq, condition, entry = w.seq, w.condition, w.entry
  w.execution_id, w.attempt, w.key, w.state, w.created_at, w.seq, w.condition, w.entry = nil, nil, nil, nil, nil, nil, nil, nil
  if w.n == 0 then w.tally, w.n, w.bytes = nil, nil, nil end
  if is_name(condition, key) then condition = true end
  if entry and entry == 'signal:' .. key then key = true end
  return pack(FORM, execution_id, attempt, key, state, created, seq, condition, entry, next(w) and w or nil)
end

Records.form('w', open, close)
-- A waitpoint that has signals is written again with each of them, and then mostly has little time to live.
Records.shorten('w', function(w) return w.n == 0 or w.state ~= 'open' end)
