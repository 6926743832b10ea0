-- Undo: an op that fails changes nothing. What a call keeps in memory until its end (events, payloads, hints, work …) is set
-- through Undo.set; records, which the rules change freely, are noted when they are taken up (Records.edit). A failed
-- attempt is taken back change by change, the last one first.
--
-- What a rule writes to Valkey by itself (slots, rings, signals …) is not in this log: it does so after its last check.
--
-- Needs: Call.

local log, n      -- of each change three values: a table, its key, what stood there; or a function and its two arguments
local attempts    -- begun in this call
local current     -- the number of the innermost one that runs; 0: none

Call.on_begin(function() log, n, attempts, current = {}, 0, 0, 0 end)

-- The attempt that runs. Each has a number of its own, so that a record knows whether this one has noted it.
function Undo.attempt_number() return current end

function Undo.set(t, key, value)
  log[n + 1], log[n + 2], log[n + 3] = t, key, t[key]
  n = n + 3
  t[key] = value
end

function Undo.append(list, item) Undo.set(list, #list + 1, item) end

-- restore(record, before) is called when the attempt is taken back. It must not change anything through Undo itself.
function Undo.note(restore, record, before)
  log[n + 1], log[n + 2], log[n + 3] = restore, record, before
  n = n + 3
end

local function take_back(mark)
  while n > mark do
    local t, key, before = log[n - 2], log[n - 1], log[n]
    n = n - 3
    if type(t) == 'function' then t(key, before) else t[key] = before end
  end
end

-- pcall(f, a, b, c, d) after whose failure all is as it was. Attempts nest: an outer one takes back what inner ones did.
function Undo.attempt(f, a, b, c, d)
  local outer, mark = current, n
  attempts = attempts + 1
  current = attempts
  local ok, reply, more = pcall(f, a, b, c, d)
  if not ok then take_back(mark) elseif outer == 0 then n = 0 end
  current = outer
  return ok, reply, more
end
