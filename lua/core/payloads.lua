-- Payloads: users' JSON (input, result, flow state …), never parsed here. A small payload is in its record
-- (`record[field]` is the text). A large one has its own key (`record[field]` is true): it is written once, however
-- often the record changes.
--
-- Needs: Call, Keys, Notes, Undo.

local INLINE = 512   -- bytes

-- Changes of this call: key -> text, or false when the key is to be deleted.
local writes = Notes.new(function(changes)
  local args, gone = {}, {}
  for k, text in pairs(changes) do
    if text then
      args[#args + 1] = k
      args[#args + 1] = text
    else
      gone[#gone + 1] = k
    end
  end
  Call.bulk('MSET', args)
  Call.bulk('UNLINK', gone)
end)

-- Set a payload of a record. text: JSON, or nil for null, which is not stored.
function Payloads.hold(record, field, text)
  if not text or #text <= INLINE then
    record[field] = text
  else
    record[field] = true
    Payloads.put(field, record.id, text)
  end
end

-- Return a payload of a record: JSON text, or nil.
function Payloads.of(record, field)
  local held = record[field]
  if held == true then return Payloads.get(field, record.id) end
  return held
end

-- Delete the payload key of a record, if the payload is not in the record itself.
function Payloads.release(record, field)
  if record[field] == true then Payloads.drop(field, record.id) end
end

-- Store a payload in its own key. text: JSON, or nil for null (nothing is stored).
function Payloads.put(field, id, text)
  if text then Undo.put(writes, Keys.of(field, id), text) end
end

function Payloads.get(field, id)
  local k = Keys.of(field, id)
  local written = writes.of[k]
  if written == nil then written = redis.call('GET', k) end
  return written or nil
end

-- Delete the payload key: its record is leaving Valkey.
function Payloads.drop(field, id) Undo.put(writes, Keys.of(field, id), false) end
