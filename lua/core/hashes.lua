-- Hashes, written once per call: changes are gathered per key and written with one HSET.
--
-- Needs: Call, Notes, Undo.

local function flush(key, of)
  local args = {}
  for field, text in pairs(of) do
    args[#args + 1] = field
    args[#args + 1] = text
  end
  Call.bulk('HSET', args, key)
end

-- Key -> field -> text.
local changes = Notes.new(function(all)
  for key, of in pairs(all) do flush(key, of) end
end)
-- Key -> milliseconds that it lives from now on, or false: for good.
local lives = Notes.new(function(all)
  for key, ms in pairs(all) do
    if ms then redis.call('PEXPIRE', key, ms) else redis.call('PERSIST', key) end
  end
end)

function Hashes.set(key, field, text) Undo.set(table_at(Notes.table(changes), key), field, text) end

-- Let a hash live for so many milliseconds from now on (by Valkey's own clock), or for good (nil).
function Hashes.lives(key, ms) Undo.put(lives, key, ms or false) end

-- Return the text of a field, or nil.
function Hashes.get(key, field)
  local of = changes.of[key]
  return of and of[field] or redis.call('HGET', key, field) or nil
end

function Hashes.has(key, field)
  local of = changes.of[key]
  return of ~= nil and of[field] ~= nil or redis.call('HEXISTS', key, field) == 1
end

-- Return the whole hash as a list: field, text, field, text …
function Hashes.all(key)
  if changes.of[key] then
    flush(key, changes.of[key])
    changes.of[key] = nil
  end
  return redis.call('HGETALL', key)
end
