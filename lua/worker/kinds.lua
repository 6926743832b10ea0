-- Kinds, as workers tell of them: the JSON Schema of a kind's input, for people who submit. All are in one partition
-- (the service says which). What is told last counts.
--
-- Fields: input (the schema, JSON text), description, lanes (of the worker that told), registered_at.
--
-- Needs: Call, Due, Keys, Lists, Places, Records.

local FORGET_MS = 30 * 86400000    -- a kind of which no worker has told for this long is forgotten
local MOST = 10000                 -- kinds

Places.define('kind', function(kind)
  return { [Keys.kind_names()] = 0, [Due.key('lease_keeper', 'kind')] = kind.registered_at + FORGET_MS }
end)

-- Note what a worker tells. told: {kind, input, description}. Errors: invalid_request (too many kinds).
function Kinds.tell(told, lanes)
  local kind = Records.edit('kind', told.kind)
  if not kind then
    Lists.check_room(Keys.kind_names(), MOST, 'schemas')
    kind = Records.create('kind', told.kind, {})
  end
  kind.input, kind.description, kind.lanes, kind.registered_at = told.input, told.description, lanes, Call.now
end

-- The due loop's part: forget a kind.
function Kinds.due(kind)
  if kind.registered_at + FORGET_MS <= Call.now then Records.delete('kind', kind.id) end
end

local function view(name)
  local kind = Records.read('kind', name)
  return {
    kind = name, input = kind.input, description = kind.description, lanes = kind.lanes, registered_at = kind.registered_at,
  }
end

-- Return the next kinds by name, as {items, cursor}. name: this one only.
function Kinds.page(name, cursor, limit)
  Records.settle()
  if name then return { items = Records.read('kind', name) and { view(name) } or {} } end
  local names = redis.call('ZRANGE', Keys.kind_names(), cursor and '(' .. cursor or '-', '+', 'BYLEX', 'LIMIT', 0, limit)
  Records.prefetch('kind', names)
  return Lists.page(names, #names == limit and names[#names] or nil, view)
end
