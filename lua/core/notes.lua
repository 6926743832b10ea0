-- Notes: what a call notes down until its end. A call has few of the many kinds of notes, so that a table is made when
-- something is put into it, and not for each call.
--
-- Needs: nothing.

Notes.NOTHING = {}   -- the table of notes that have none

local NOTHING = Notes.NOTHING
local count = 0      -- how many notes there are
local noted = {}     -- those that this call has put something into, in the order in which they are written

-- Return notes: {of = table}, whose table is empty when a call begins. Values are put into it by Undo.put, or into
-- Notes.table. If there are any at the end of the call, write(table) is called; notes made earlier are written earlier.
function Notes.new(write)
  count = count + 1
  return { of = NOTHING, write = write, rank = count }
end

local function take_up(some)
  local i = #noted + 1
  while i > 1 and noted[i - 1].rank > some.rank do
    noted[i] = noted[i - 1]
    i = i - 1
  end
  noted[i], some.of = some, {}
end

-- Return the table of notes, to put something into it.
function Notes.table(some)
  if some.of == NOTHING then take_up(some) end
  return some.of
end

-- Empty all notes, also those of a call that failed half-way.
function Notes.begin()
  for i = #noted, 1, -1 do noted[i].of, noted[i] = NOTHING, nil end
end

function Notes.write()
  for i = 1, #noted do
    local some = noted[i]
    if some.write then some.write(some.of) end
  end
end
