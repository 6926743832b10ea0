-- Users' JSON (input, result, flow state …), each in a key of its own: written once, never parsed here.

local writes

function Payloads.begin() writes = {} end

local function key(field, id) return Call.root .. ':' .. field .. ':' .. id end

-- text: JSON, or nil for null, which takes no room.
function Payloads.put(field, id, text)
  if text then writes[key(field, id)] = text end
end

function Payloads.get(field, id)
  local k = key(field, id)
  return writes[k] or redis.call('GET', k) or nil
end

-- Ends the payload: a null, or a record that retired.
function Payloads.drop(field, id)
  writes[key(field, id)] = nil
  redis.call('UNLINK', key(field, id))
end

function Payloads.flush()
  local args = {}
  for k, text in pairs(writes) do
    args[#args + 1] = k
    args[#args + 1] = text
    if #args >= 2000 then
      redis.call('MSET', unpack(args))
      args = {}
    end
  end
  if #args > 0 then redis.call('MSET', unpack(args)) end
end
