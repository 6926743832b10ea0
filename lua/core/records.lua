-- Records (executions, flows, waitpoints …): one msgpack string each, cached during a call, written at its end.
--
-- A record's places in the sorted sets are settled as it changes (core/places.lua).
--
-- `record.log` (an execution's packed events, its history) follows the record in the same string. When the log is
-- longer than LOG_LIMIT, it is moved to the key `h:<id>`.
--
-- Needs: Call, Keys, Notes, Places, Undo, Words, Zsets.

local LOG_LIMIT = 2048   -- bytes

local forms = {}    -- kind -> {open, close}: see Records.form
local shorts = {}   -- kind -> function that says of a record whether it is stored shortened (core/words.lua)
local cached        -- kind -> id -> record, or false when there is none
local books         -- edited record -> its book: {kind, noted, early, …}. noted: the number of the attempt that edited it last;
                    -- early: it was placed by Records.settle, and not edited since; the rest: see core/places.lua
local taken_up      -- edited records in the order of their edits; a record may occur several times
local settled       -- how many entries of `taken_up` Records.settle has already placed

-- Give the records of a kind a form of their own. close(record, log): return a string whose first byte is below 128; it
-- may empty the record. open(string): return the record, with its log. Strings of the common form, a msgpack map with the
-- log behind it, are still read.
function Records.form(kind, open, close) forms[kind] = { open = open, close = close } end

-- Store the records of a kind shortened (core/words.lua) for which short(record) holds.
function Records.shorten(kind, short) shorts[kind] = short end

Call.on_begin(function() cached, books, taken_up, settled = {}, {}, {}, 0 end)

-- Keys to be deleted at the end of the call.
local unlinks = Notes.new(function(names)
  local gone = {}
  for name in pairs(names) do gone[#gone + 1] = name end
  Call.bulk('UNLINK', gone)
end)

local function opened(kind, id, packed)
  if not packed then return false end
  local form, first, record = forms[kind], string.byte(packed), nil
  if first == Words.FIRST then
    packed = Words.whole(packed)
    first = string.byte(packed)
  end
  if form and first < 128 then
    record = form.open(packed)
  else
    local at
    at, record = cmsgpack.unpack_one(packed)
    if at >= 0 then record.log = string.sub(packed, at + 1) end
  end
  record.id = id
  return record
end

-- Return a record for reading, or nil when there is none. `record.id` exists in memory only.
function Records.read(kind, id)
  local of = cached[kind] or table_at(cached, kind)
  local record = of[id]
  if record == nil then
    record = opened(kind, id, redis.call('GET', Keys.of(kind, id)))
    of[id] = record
  end
  return record or nil
end

-- Load many records with one MGET into the cache. At most 2000 are loaded.
function Records.prefetch(kind, ids)
  if #ids < 2 then return end
  local of, wanted, keys, n = table_at(cached, kind), {}, {}, 0
  for _, id in ipairs(ids) do
    if of[id] == nil and n < 2000 then
      n = n + 1
      wanted[n], keys[n] = id, Keys.of(kind, id)
    end
  end
  if n < 2 then return end
  for i, packed in ipairs(redis.call('MGET', unpack(keys))) do
    of[wanted[i]] = opened(kind, wanted[i], packed)
  end
end

-- Delete a key at the end of the call.
function Records.unlink(name) Undo.put(unlinks, name, true) end

-- Undo a failed attempt's changes to a record: restore its contents, and its places in the indexes.
local function refill(record, contents)
  local book, id = books[record], record.id
  for name in pairs(record) do record[name] = nil end
  for name, value in pairs(contents) do record[name] = value end
  cached[book.kind][id] = record
  Places.restore(book, record)
end

-- Undo the changes to a record that this call had already edited before the attempt.
local function restore(record, packed) refill(record, unpack_msg(packed)) end

-- Undo the changes to a record that this call had not edited before the attempt: load it from Valkey again.
local function reload(record)
  local book = books[record]
  refill(record, opened(book.kind, record.id, redis.call('GET', Keys.of(book.kind, record.id))))
  book.places = nil
end

-- Undo the creation of a record.
local function forget(record)
  local book = books[record]
  Places.leave(book, record)
  local of = cached[book.kind]
  if of[record.id] == record then of[record.id] = false end
end

-- Return a book for a record that is nowhere yet. It names all of its fields, so that the table need not grow.
local function new_book(kind, attempt)
  return { kind = kind, noted = attempt, places = Places.NOWHERE, changed = false, early = false, all = nil, index = nil,
    zset = nil, score = nil }
end

-- Return a record for changing, or nil. Each attempt must call this before it changes a record; otherwise the change is
-- not undone when the attempt fails.
function Records.edit(kind, id)
  local record = Records.read(kind, id)
  if not record then return nil end
  local book, attempt = books[record], Undo.attempt_number()
  if not book then
    book = new_book(kind, attempt)
    books[record] = book
    Places.look_up(book, record)
    Undo.note(reload, record)
    taken_up[#taken_up + 1] = record
  elseif book.noted ~= attempt then
    if book.places then
      Undo.note(restore, record, pack(record))
    else
      Places.look_up(book, record)
      Undo.note(reload, record)
    end
    book.noted = attempt
    taken_up[#taken_up + 1] = record
  elseif book.early then
    book.early = false
    taken_up[#taken_up + 1] = record
  end
  return record
end

-- Create a record and return it. A record with this id must not exist yet.
function Records.create(kind, id, record)
  record.id = id
  table_at(cached, kind)[id] = record
  books[record] = new_book(kind, Undo.attempt_number())
  Undo.note(forget, record)
  if next(unlinks.of) and unlinks.of[Keys.of(kind, id)] then Undo.put(unlinks, Keys.of(kind, id), nil) end
  taken_up[#taken_up + 1] = record
  return record
end

-- Delete a record: its key, and its places in all indexes.
function Records.delete(kind, id)
  local record = Records.edit(kind, id)
  if not record then return end
  Places.leave(books[record], record)
  Records.unlink(Keys.of(kind, id))
  cached[kind][id] = false
end

local function place(record)
  local book = books[record]
  if book.places then Places.settle(book, record) end
  return book
end

-- Write to the indexes in Valkey what has changed since the last settle: for ops that read an index. Only records
-- edited since then are looked at, since an op of a hundred grants must not look at all its records a hundred times.
function Records.settle()
  while settled < #taken_up do
    settled = settled + 1
    place(taken_up[settled]).early = true
  end
  Zsets.flush()
end

local function perform(f, a, b, c)
  local i = #taken_up + 1
  local all_before = settled >= i - 1
  local reply, more = f(a, b, c)
  -- Place all records that f has edited, also those placed by Records.settle: they may have changed since.
  while taken_up[i] do
    place(taken_up[i])
    i = i + 1
  end
  if all_before then settled = #taken_up end
  return reply, more
end

-- Run f(a, b, c) as an attempt, and update the indexes of the records that it edited. Return true and at most two
-- values of f, or false and the error; after an error nothing has changed (core/undo.lua).
function Records.attempt(f, a, b, c) return Undo.attempt(perform, f, a, b, c) end

Call.on_write(function()
  local writes = { nil, nil }   -- mostly one record
  for _, record in ipairs(taken_up) do
    local book = books[record]
    if book.places then
      book.places = nil   -- so that a record that occurs twice in `taken_up` is written once
      local id, log, n = record.id, record.log, #writes
      if log and #log > LOG_LIMIT then
        redis.call('APPEND', Keys.of('h', id), log)
        log = nil
      end
      record.id, record.log = nil, nil
      writes[n + 1] = Keys.of(book.kind, id)
      local form, short = forms[book.kind], shorts[book.kind]
      if short then short = short(record) end   -- before a form empties the record
      local packed = form and form.close(record, log) or log and pack(record) .. log or pack(record)
      writes[n + 2] = short and Words.short(packed) or packed
    end
  end
  Call.bulk('MSET', writes)
end)
