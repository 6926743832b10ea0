-- Hashes, written once per call: changes are gathered per key and written with one HSET.
--
-- Needs: Call, Undo.

local changes   -- key -> field -> text
local lives     -- key -> milliseconds that it lives from now on, or false: for good

Call.on_begin(function() changes, lives = {}, {} end)

function Hashes.set(key, field, text) Undo.set(table_at(changes, key), field, text) end

-- Let a hash live for so many milliseconds from now on (by Valkey's own clock), or for good (nil).
function Hashes.lives(key, ms) Undo.set(lives, key, ms or false) end

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
  for key, ms in pairs(lives) do
    if ms then redis.call('PEXPIRE', key, ms) else redis.call('PERSIST', key) end
  end
end)
