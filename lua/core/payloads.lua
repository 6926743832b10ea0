-- Users' JSON (input, result, flow state …), never parsed here. A small one stays in its record (`record[field]` is the
-- text), a large one has a key of its own (`record[field]` is true), written once however often the record changes.
--
-- Needs: Call, Keys, Undo.

local INLINE = 512

local writes   -- key -> text, or false: it leaves

Call.on_begin(function() writes = {} end)

-- Gives a record its payload. text: JSON, or nil for null, which takes no room.
function Payloads.hold(record, field, text)
  if not text or #text <= INLINE then
    record[field] = text
  else
    record[field] = true
    Payloads.put(field, record.id, text)
  end
end

-- A record's payload: JSON text, or nil.
function Payloads.of(record, field)
  local held = record[field]
  if held == true then return Payloads.get(field, record.id) end
  return held
end

-- Ends what a record held apart from itself.
function Payloads.release(record, field)
  if record[field] == true then Payloads.drop(field, record.id) end
end

-- A payload in a key of its own. text: JSON, or nil for null.
function Payloads.put(field, id, text)
  if text then Undo.set(writes, Keys.of(field, id), text) end
end

function Payloads.get(field, id)
  local k = Keys.of(field, id)
  local written = writes[k]
  if written == nil then written = redis.call('GET', k) end
  return written or nil
end

-- Ends the payload: a null, or a record that retired.
function Payloads.drop(field, id) Undo.set(writes, Keys.of(field, id), false) end

Call.on_write(function()
  local args, gone = {}, {}
  for k, text in pairs(writes) do
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
