-- Records (executions, flows, waitpoints …): one msgpack string each, cached during a call, written at its end.
--
-- A kind's *placement* is a pure function of its record: {zset key = score}, every index, queue and due set
-- that the record stands in. What changed between the loaded and the final record is all that is written, so
-- an index can never disagree with its record. In all of these sets the member is the record's id.

local kinds = {}    -- kind -> placement function
local cached        -- kind -> id -> record or false
local placed        -- record -> its placement in Valkey, for records that are edited

function Records.define(kind, placement) kinds[kind] = placement end

function Records.begin()
  cached, placed = {}, {}
  for kind in pairs(kinds) do cached[kind] = {} end
end

local function key(kind, id) return Call.root .. ':' .. kind .. ':' .. id end

-- The record, to look at; nil when there is none. `record.id` is there in memory only.
function Records.read(kind, id)
  local record = cached[kind][id]
  if record == nil then
    local packed = redis.call('GET', key(kind, id))
    record = packed and unpack_msg(packed) or false
    if record then record.id = id end
    cached[kind][id] = record
  end
  return record or nil
end

-- The record, to change.
function Records.edit(kind, id)
  local record = Records.read(kind, id)
  if record and not placed[record] then placed[record] = kinds[kind](record) end
  return record
end

-- A new record, which must not exist yet.
function Records.create(kind, id, record)
  record.id = id
  cached[kind][id] = record
  placed[record] = {}
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

function Records.place()
  for kind, records in pairs(cached) do
    for id, record in pairs(records) do
      local before = record and placed[record]
      if before then
        local after = kinds[kind](record)
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
    end
  end
end

function Records.save()
  local writes = {}
  for kind, records in pairs(cached) do
    for id, record in pairs(records) do
      if record and placed[record] then
        record.id = nil
        writes[#writes + 1] = key(kind, id)
        writes[#writes + 1] = pack(record)
        if #writes >= 2000 then
          redis.call('MSET', unpack(writes))
          writes = {}
        end
      end
    end
  end
  if #writes > 0 then redis.call('MSET', unpack(writes)) end
end
