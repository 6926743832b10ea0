-- Records (executions, flows, waitpoints …): one msgpack string each, cached during a call, written at its end.
--
-- A kind's *placement* is a pure function of its record: {zset key = score}, every index, queue and due set
-- that the record stands in. What changed between the loaded and the final record is all that is written, so
-- an index can never disagree with its record. In all of these sets the member is the record's id.
--
-- `record.log` (an execution's packed events, its history) stands behind the record in the same string, until it
-- grows long: then it moves to the key `h:<id>`.

local LOG_LIMIT = 2048

local kinds = {}    -- kind -> placement function
local cached        -- kind -> id -> record or false
local placed        -- record -> its placement in Valkey, for records that are edited
local edited        -- those records, in the order in which they came
local kind_of       -- record -> kind, for them
local touched       -- those that were taken up for editing since they were placed last
local pending       -- record -> true, for these

function Records.define(kind, placement) kinds[kind] = placement end

function Records.begin()
  cached, placed, edited, kind_of, touched, pending = {}, {}, {}, {}, {}, {}
  for kind in pairs(kinds) do cached[kind] = {} end
end

local function key(kind, id) return Call.root .. ':' .. kind .. ':' .. id end

local function opened(id, packed)
  if not packed then return false end
  local at, record = cmsgpack.unpack_one(packed)
  if at >= 0 then record.log = string.sub(packed, at + 1) end
  record.id = id
  return record
end

-- The record, to look at; nil when there is none. `record.id` is there in memory only.
function Records.read(kind, id)
  local record = cached[kind][id]
  if record == nil then
    record = opened(id, redis.call('GET', key(kind, id)))
    cached[kind][id] = record
  end
  return record or nil
end

-- Reads many records at once that a call is going to need.
function Records.prefetch(kind, ids)
  local wanted, keys = {}, {}
  for _, id in ipairs(ids) do
    if cached[kind][id] == nil and #keys < 2000 then
      wanted[#wanted + 1] = id
      keys[#keys + 1] = key(kind, id)
    end
  end
  if #keys < 2 then return end
  for i, packed in ipairs(redis.call('MGET', unpack(keys))) do
    cached[kind][wanted[i]] = opened(wanted[i], packed)
  end
end

local function touch(kind, record, placement)
  if placement then
    placed[record], kind_of[record] = placement, kind
    edited[#edited + 1] = record
  end
  if not pending[record] then
    pending[record] = true
    touched[#touched + 1] = record
  end
end

-- The record, to change.
function Records.edit(kind, id)
  local record = Records.read(kind, id)
  if record then touch(kind, record, not placed[record] and kinds[kind](record)) end
  return record
end

-- A new record, which must not exist yet.
function Records.create(kind, id, record)
  record.id = id
  cached[kind][id] = record
  touch(kind, record, {})
  return record
end

-- Ends a record: its key, and its place in every index.
function Records.delete(kind, id)
  local record = Records.edit(kind, id)
  if not record then return end
  for zset in pairs(placed[record]) do Zsets.remove(zset, id) end
  redis.call('UNLINK', key(kind, id))
  placed[record] = nil
  cached[kind][id] = false
end

local function place(record)
  local before = placed[record]
  if not before then return end
  local id = record.id
  local after = kinds[kind_of[record]](record)
  for zset in pairs(before) do
    if not after[zset] then Zsets.remove(zset, id) end
  end
  for zset, score in pairs(after) do
    if before[zset] ~= score then
      Zsets.add(zset, score, id)
      Due.joined(zset, score)
      Queues.joined(zset)
    end
  end
  placed[record] = after
end

-- Brings indexes up to date with the records that were taken up for editing since the last time: a call of a
-- hundred grants must not look at all its records a hundred times.
function Records.place()
  local records = touched
  touched, pending = {}, {}
  for _, record in ipairs(records) do place(record) end
end

-- The same with all, at the end: one that was placed already may have changed since.
function Records.place_all()
  local i = 1
  while edited[i] do
    place(edited[i])
    i = i + 1
  end
end

function Records.save()
  local writes = {}
  for _, record in ipairs(edited) do
    if placed[record] then
      local log = record.log or ''
      if #log > LOG_LIMIT then
        redis.call('APPEND', key('h', record.id), log)
        log = ''
      end
      writes[#writes + 1] = key(kind_of[record], record.id)
      record.id, record.log = nil, nil
      writes[#writes + 1] = pack(record) .. log
      if #writes >= 2000 then
        redis.call('MSET', unpack(writes))
        writes = {}
      end
    end
  end
  if #writes > 0 then redis.call('MSET', unpack(writes)) end
end
