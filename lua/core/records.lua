-- Records (executions, flows, waitpoints …): one msgpack string each, cached during a call, written at its end.
--
-- A kind's *placement* is a pure function of its record: {zset key = score}, every index, queue and due set
-- that the record stands in. What changed between the loaded and the final record is all that is written, so
-- an index can never disagree with its record. In all of these sets the member is the record's id.
--
-- `record.log` (an execution's packed events, its history) stands behind the record in the same string, until it
-- grows long: then it moves to the key `h:<id>`.
--
-- Needs: Call, Keys, Undo, Zsets.

local LOG_LIMIT = 2048

local kinds = {}    -- kind -> placement function
local cached        -- kind -> id -> record or false
local placed        -- record -> its placement in Valkey, for records that are edited
local kind_of       -- record -> kind, for them
local noted         -- record -> the attempt that took it up last
local taken_up      -- records in the order in which attempts took them up; one may come several times
local settled       -- how many of them were placed before the attempt's end, for an op that reads an index
local early         -- record -> true, for these
local watched       -- sorted set -> f(key, score): who wants to know that an id joins it
local unlinks       -- keys that leave with the call

function Records.define(kind, placement) kinds[kind] = placement end

-- In this call f(key, score) is called when a record's id joins this sorted set, or gets another score there. It may edit
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

-- The record, to look at; nil when there is none. `record.id` is there in memory only.
function Records.read(kind, id)
  local record = cached[kind][id]
  if record == nil then
    record = opened(id, redis.call('GET', Keys.of(kind, id)))
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
      keys[#keys + 1] = Keys.of(kind, id)
    end
  end
  if #keys < 2 then return end
  for i, packed in ipairs(redis.call('MGET', unpack(keys))) do
    cached[kind][wanted[i]] = opened(wanted[i], packed)
  end
end

-- A key that leaves when the call ends.
function Records.unlink(name) Undo.set(unlinks, name, true) end

local function take_up(record)
  noted[record] = Undo.attempt_number()
  taken_up[#taken_up + 1] = record
end

-- Brings a record's indexes from one placement to another. watchers: who is told of the sets that it joins.
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

-- What a failed attempt did to a record is taken back: its contents, and the indexes that it may have been put into.
local function refill(record, contents)
  local kind, id = kind_of[record], record.id
  for name in pairs(record) do record[name] = nil end
  for name, value in pairs(contents) do record[name] = value end
  cached[kind][id] = record
  local before = kinds[kind](record)
  move(record, placed[record] or NOWHERE, before, NOBODY)
  placed[record] = before
end

-- A record that the call had changed before.
local function restore(record, packed) refill(record, unpack_msg(packed)) end

-- A record that nobody had changed before: it is as it stands in Valkey.
local function reload(record)
  refill(record, opened(record.id, redis.call('GET', Keys.of(kind_of[record], record.id))))
  placed[record] = nil
end

-- A record that there was not.
local function forget(record)
  move(record, placed[record] or NOWHERE, NOWHERE, NOBODY)
  placed[record] = nil
  local of = cached[kind_of[record]]
  if of[record.id] == record then of[record.id] = false end
end

-- The record, to change. What is changed in an attempt must be taken up in it, else it is not taken back.
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

-- A new record, which must not exist yet.
function Records.create(kind, id, record)
  record.id = id
  cached[kind][id] = record
  placed[record], kind_of[record] = {}, kind
  Undo.note(forget, record)
  if unlinks[Keys.of(kind, id)] then Undo.set(unlinks, Keys.of(kind, id), nil) end
  take_up(record)
  return record
end

-- Ends a record: its key, and its place in every index.
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

-- Brings the indexes in Valkey up to date with the records that were taken up since the last time: for ops that read an
-- index. An op of a hundred grants must not look at all its records a hundred times.
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
  -- All that were taken up: one that was placed already may have changed since.
  while taken_up[i] do
    place(taken_up[i])
    i = i + 1
  end
  if all_before then settled = #taken_up end
  return reply, more
end

-- Calls f(a, b, c), and puts what it changed in its place. Returns true and at most two values, or false and the error: then
-- nothing has changed (core/undo.lua).
function Records.attempt(f, a, b, c) return Undo.attempt(perform, f, a, b, c) end

Call.on_write(function()
  local gone, writes = {}, {}
  for name in pairs(unlinks) do gone[#gone + 1] = name end
  for _, record in ipairs(taken_up) do
    if placed[record] then
      placed[record] = nil   -- it is written once
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
