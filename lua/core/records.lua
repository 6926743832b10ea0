-- Records (executions, flows, waitpoints …): one msgpack string each, cached during a call, written at its end.
--
-- A kind's *placement* is a pure function of a record: {zset key = score}, for every index, queue and due set that
-- contains the record. Sorted sets are changed only by the difference between the old and the new placement, so an
-- index never disagrees with its record. In all of these sets the member is the record's id.
--
-- `record.log` (an execution's packed events, its history) follows the record in the same string. When the log is
-- longer than LOG_LIMIT, it is moved to the key `h:<id>`.
--
-- Needs: Call, Keys, Undo, Zsets.

local LOG_LIMIT = 2048   -- bytes

local kinds = {}    -- kind -> placement function
local cached        -- kind -> id -> record, or false when there is none
local placed        -- edited record -> its placement as it is in Valkey
local kind_of       -- edited record -> its kind
local noted         -- record -> the number of the attempt that edited it last
local taken_up      -- edited records in the order of their edits; a record may occur several times
local settled       -- how many entries of `taken_up` Records.settle has already placed
local early         -- record -> true: placed by Records.settle, and not edited since
local watched       -- sorted set -> f(key, score), called when an id joins the set
local unlinks       -- keys to be deleted at the end of the call

function Records.define(kind, placement) kinds[kind] = placement end

-- Call f(key, score) in this call whenever a record's id joins this sorted set or gets another score in it. f may edit
-- records, but must not write sorted sets.
function Records.watch(key, f) watched[key] = f end

Call.on_begin(function()
  cached, placed, kind_of, noted, taken_up, unlinks = {}, {}, {}, {}, {}, {}
  settled, early, watched = 0, {}, {}
  for kind in pairs(kinds) do cached[kind] = {} end
end)

local function opened(id, packed)
  if not packed then return false end
  local at, record = cmsgpack.unpack_one(packed)
  if at >= 0 then record.log = string.sub(packed, at + 1) end
  record.id = id
  return record
end

-- Return a record for reading, or nil when there is none. `record.id` exists in memory only.
function Records.read(kind, id)
  local record = cached[kind][id]
  if record == nil then
    record = opened(id, redis.call('GET', Keys.of(kind, id)))
    cached[kind][id] = record
  end
  return record or nil
end

-- Load many records with one MGET into the cache. At most 2000 are loaded.
function Records.prefetch(kind, ids)
  local wanted, keys = {}, {}
  for _, id in ipairs(ids) do
    if cached[kind][id] == nil and #keys < 2000 then
      wanted[#wanted + 1] = id
      keys[#keys + 1] = Keys.of(kind, id)
    end
  end
  if #keys < 2 then return end
  for i, packed in ipairs(redis.call('MGET', unpack(keys))) do
    cached[kind][wanted[i]] = opened(wanted[i], packed)
  end
end

-- Delete a key at the end of the call.
function Records.unlink(name) Undo.set(unlinks, name, true) end

local function take_up(record)
  noted[record] = Undo.attempt_number()
  taken_up[#taken_up + 1] = record
end

-- Move a record from one placement to another in the sorted sets. watchers: {sorted set = f(key, score)} to be called
-- for the sets that the record joins.
local function move(record, before, after, watchers)
  local id, changing = record.id, false
  for zset in pairs(before) do
    if not after[zset] then
      changing = changing or Zsets.change(record)
      Zsets.remove(zset, id)
    end
  end
  for zset, score in pairs(after) do
    if before[zset] ~= score then
      changing = changing or Zsets.change(record)
      Zsets.add(zset, score, id)
      local f = watchers[zset]
      if f then f(zset, score) end
    end
  end
end

local NOWHERE, NOBODY = {}, {}

-- Undo a failed attempt's changes to a record: restore its contents, and its places in the indexes.
local function refill(record, contents)
  local kind, id = kind_of[record], record.id
  for name in pairs(record) do record[name] = nil end
  for name, value in pairs(contents) do record[name] = value end
  cached[kind][id] = record
  local before = kinds[kind](record)
  move(record, placed[record] or NOWHERE, before, NOBODY)
  placed[record] = before
end

-- Undo the changes to a record that this call had already edited before the attempt.
local function restore(record, packed) refill(record, unpack_msg(packed)) end

-- Undo the changes to a record that this call had not edited before the attempt: load it from Valkey again.
local function reload(record)
  refill(record, opened(record.id, redis.call('GET', Keys.of(kind_of[record], record.id))))
  placed[record] = nil
end

-- Undo the creation of a record.
local function forget(record)
  move(record, placed[record] or NOWHERE, NOWHERE, NOBODY)
  placed[record] = nil
  local of = cached[kind_of[record]]
  if of[record.id] == record then of[record.id] = false end
end

-- Return a record for changing, or nil. Each attempt must call this before it changes a record; otherwise the change is
-- not undone when the attempt fails.
function Records.edit(kind, id)
  local record = Records.read(kind, id)
  if not record then return nil end
  if noted[record] ~= Undo.attempt_number() then
    if placed[record] then
      Undo.note(restore, record, pack(record))
    else
      placed[record], kind_of[record] = kinds[kind](record), kind
      Undo.note(reload, record)
    end
    take_up(record)
  elseif early[record] then
    early[record] = nil
    taken_up[#taken_up + 1] = record
  end
  return record
end

-- Create a record and return it. A record with this id must not exist yet.
function Records.create(kind, id, record)
  record.id = id
  cached[kind][id] = record
  placed[record], kind_of[record] = {}, kind
  Undo.note(forget, record)
  if unlinks[Keys.of(kind, id)] then Undo.set(unlinks, Keys.of(kind, id), nil) end
  take_up(record)
  return record
end

-- Delete a record: its key, and its places in all indexes.
function Records.delete(kind, id)
  local record = Records.edit(kind, id)
  if not record then return end
  move(record, placed[record], NOWHERE, NOBODY)
  Records.unlink(Keys.of(kind, id))
  placed[record] = nil
  cached[kind][id] = false
end

local function place(record)
  local before = placed[record]
  if not before then return end
  local after = kinds[kind_of[record]](record)
  move(record, before, after, watched)
  placed[record] = after
end

-- Write to the indexes in Valkey what has changed since the last settle: for ops that read an index. Only records
-- edited since then are looked at, since an op of a hundred grants must not look at all its records a hundred times.
function Records.settle()
  while settled < #taken_up do
    settled = settled + 1
    local record = taken_up[settled]
    place(record)
    early[record] = true
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
  local gone, writes = {}, {}
  for name in pairs(unlinks) do gone[#gone + 1] = name end
  for _, record in ipairs(taken_up) do
    if placed[record] then
      placed[record] = nil   -- so that a record that occurs twice in `taken_up` is written once
      local log = record.log or ''
      if #log > LOG_LIMIT then
        redis.call('APPEND', Keys.of('h', record.id), log)
        log = ''
      end
      writes[#writes + 1] = Keys.of(kind_of[record], record.id)
      record.id, record.log = nil, nil
      writes[#writes + 1] = pack(record) .. log
    end
  end
  Call.bulk('UNLINK', gone)
  Call.bulk('MSET', writes)
end)
