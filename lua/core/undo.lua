-- Undo: an op that fails changes nothing. State that a call keeps in memory until its end (events, payloads, hints,
-- work …) is set through Undo.set. Rules change records directly, so Records.edit notes a record before its first
-- change. A failed attempt is undone change by change, the last one first.
--
-- Direct writes to Valkey (slots, rings, signals …) are not in this log: a rule makes them after its last check.
--
-- Needs: Call, Notes.

local log = {}    -- three values per change: table, key, old value; or function, two arguments
local n           -- how many values there are; what is behind them, also from the call before, is of no use
local attempts    -- number of attempts that this call has begun
local current     -- number of the innermost running attempt; 0: none
local NOTHING = Notes.NOTHING
local LONG = 34   -- a log that had so many changes is not kept for the next call

Call.on_begin(function()
  if log[LONG * 3 - 2] then log = {} end
  n, attempts, current = 0, 0, 0
end)

-- Return the running attempt's number, by which Records.edit knows whether this attempt has already noted a record.
function Undo.attempt_number() return current end

function Undo.set(t, key, value)
  local list, at = log, n
  list[at + 1], list[at + 2], list[at + 3] = t, key, t[key]
  n = at + 3
  t[key] = value
end

-- The same in the table of notes (core/notes.lua).
function Undo.put(notes, key, value)
  local of = notes.of
  return Undo.set(of ~= NOTHING and of or Notes.table(notes), key, value)
end

function Undo.append(list, item) Undo.set(list, #list + 1, item) end

-- Call restore(record, before) when the attempt is undone. restore must not change anything through Undo.
function Undo.note(restore, record, before)
  local list, at = log, n
  list[at + 1], list[at + 2], list[at + 3] = restore, record, before
  n = at + 3
end

local function take_back(mark)
  while n > mark do
    local t, key, before = log[n - 2], log[n - 1], log[n]
    n = n - 3
    if type(t) == 'function' then t(key, before) else t[key] = before end
  end
end

-- Run pcall(f, a, b, c, d) as an attempt; when f fails, undo all its changes. Attempts nest: when an outer attempt
-- fails, the changes of its inner ones are undone too.
function Undo.attempt(f, a, b, c, d)
  local outer, mark = current, n
  attempts = attempts + 1
  current = attempts
  local ok, reply, more = pcall(f, a, b, c, d)
  if not ok then take_back(mark) elseif outer == 0 then n = 0 end
  current = outer
  return ok, reply, more
end
