-- Hashes, written once per call: changes are gathered per key and written with one HSET.
--
-- Needs: Call, Undo.

local changes   -- key -> field -> text

Call.on_begin(function() changes = {} end)

function Hashes.set(key, field, text) Undo.set(table_at(changes, key), field, text) end

-- Return the text of a field, or nil.
function Hashes.get(key, field)
  local of = changes[key]
  return of and of[field] or redis.call('HGET', key, field) or nil
end

function Hashes.has(key, field)
  local of = changes[key]
  return of ~= nil and of[field] ~= nil or redis.call('HEXISTS', key, field) == 1
end

local function flush(key, of)
  local args = {}
  for field, text in pairs(of) do
    args[#args + 1] = field
    args[#args + 1] = text
  end
  Call.bulk('HSET', args, key)
end

-- Return the whole hash as a list: field, text, field, text …
function Hashes.all(key)
  if changes[key] then
    flush(key, changes[key])
    changes[key] = nil
  end
  return redis.call('HGETALL', key)
end

Call.on_write(function()
  for key, of in pairs(changes) do flush(key, of) end
end)
