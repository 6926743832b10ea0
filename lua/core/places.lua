-- Places: the sorted sets that a record stands in.
--
-- A kind's *placement* is a pure function of a record: {zset key = score}, for every index, queue and due set that
-- contains the record. Sorted sets are changed only by the difference between the old and the new placement, so an
-- index never disagrees with its record. In all of these sets the member is the record's id.
--
-- Most records of a kind may be *plain*: always in the same index of all, in one more index (score 0) and in one queue or
-- due set. A kind may have a function that says so; then the comparison needs no tables.
--
-- A *book* (core/records.lua) holds the places of a record as they are in Valkey, with what this call has gathered: places
-- (its placement; for a plain record PLAIN, and all, index, zset, score tell it; nil when there is nothing to write).
--
-- Needs: Kept, Zsets.

local kinds = {}    -- kind -> placement function
local plains = {}   -- kind -> function that returns a plain record's places: the index of all, the other index, the queue
                    -- or due set and the score in it; nil for a record that is not plain
local watched       -- sorted set -> f(key, score), called when an id joins the set; kept between calls

local PLAIN, NOBODY = {}, {}
Places.NOWHERE = {}   -- the placement of a record that stands in no set
local NOWHERE = Places.NOWHERE

Kept.on_root(function() watched = Kept.table('watched') end)

function Places.define(kind, placement, plain) kinds[kind], plains[kind] = placement, plain end

-- Call f(key, score) whenever a record's id joins this sorted set or gets another score in it. f may edit records, but must
-- not write sorted sets. The set is watched as long as Kept keeps anything.
function Places.watch(key, f) Kept.put(watched, key, f) end

-- Move a record from one placement to another in the sorted sets. watchers: {sorted set = f(key, score)} to be called
-- for the sets that the record joins.
local function move(id, book, before, after, watchers)
  local changing = false
  for zset in pairs(before) do
    if not after[zset] then
      changing = changing or Zsets.change(book)
      Zsets.remove(zset, id)
    end
  end
  for zset, score in pairs(after) do
    if before[zset] ~= score then
      changing = changing or Zsets.change(book)
      Zsets.add(zset, score, id)
      local f = watchers[zset]
      if f then f(zset, score) end
    end
  end
end

-- Set the book to the places that the record has now.
function Places.look_up(book, record)
  local plain, all, index, zset, score = plains[book.kind], nil, nil, nil, nil
  if plain then all, index, zset, score = plain(record) end
  -- A placement that fails must leave the book as it is.
  local places = all and PLAIN or kinds[book.kind](record)
  book.places, book.all, book.index, book.zset, book.score = places, all, index, zset, score
end

-- Return book.places as a table.
local function places_of(book)
  local places = book.places
  if not places then return NOWHERE end
  if places ~= PLAIN then return places end
  return { [book.all] = 0, [book.index] = 0, [book.zset] = book.score }
end

-- Move a plain record to its places now, if it is plain still. Return whether it is.
local function move_plain(book, record)
  local all, index, zset, score = plains[book.kind](record)
  if not all then return false end
  local id, old_index, old_zset = record.id, book.index, book.zset
  if zset == old_zset and score == book.score and index == old_index then return true end
  Zsets.change(book)
  if index ~= old_index then
    Zsets.remove(old_index, id)
    Zsets.add(index, 0, id)
    book.index = index
  end
  if zset ~= old_zset or score ~= book.score then
    if zset ~= old_zset then Zsets.remove(old_zset, id) end
    Zsets.add(zset, score, id)
    book.zset, book.score = zset, score
    local f = watched[zset]
    if f then f(zset, score) end
  end
  return true
end

-- Put a record that stood nowhere into the places of a plain one.
local function enter_plain(id, book, watchers)
  local zset, score = book.zset, book.score
  Zsets.change(book)
  Zsets.add(book.all, 0, id)
  Zsets.add(book.index, 0, id)
  Zsets.add(zset, score, id)
  local f = watchers[zset]
  if f then f(zset, score) end
end

local function shift(book, record, watchers)
  local before = places_of(book)
  Places.look_up(book, record)
  if before == NOWHERE and book.places == PLAIN then return enter_plain(record.id, book, watchers) end
  local after = places_of(book)
  if after ~= before then move(record.id, book, before, after, watchers) end   -- a kind may keep placements, and give them again
end

-- Move a record to the places that it has now, and tell the watchers of the sets that it joins.
function Places.settle(book, record)
  if book.places == PLAIN and move_plain(book, record) then return end
  shift(book, record, watched)
end

-- The same, after the record's contents were restored: nobody is told.
function Places.restore(book, record) shift(book, record, NOBODY) end

-- Remove a record from all its places. Nobody is told, and there is nothing more to write of it.
function Places.leave(book, record)
  move(record.id, book, places_of(book), NOWHERE, NOBODY)
  book.places = nil
end
