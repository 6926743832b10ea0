-- The journal of an execution: its entries by key, in the order in which they came. Rules of waits: journal/waits.lua.
--
-- x.journal holds n (entries), bytes (of all of them), e (the packed entries in order, while they are small together),
-- told (the last fullness that was told, in percent), states (places of entries of kind `state`), undo (it has
-- compensations) and undoing (a worker runs them). A larger journal is in the hash j:<id>: its fields are the keys of
-- entries, with an entry's place as value, and NUL with a place, with the packed entry.
--
-- A packed entry is two msgpack objects: an array of FIELDS, without the absent ones at its end ('' stands for an absent
-- one in between); and the result, JSON text or ''. So a reply passes entries on without unpacking them.
--
-- Fields of an execution: journal, version (of the code that began it), pinned (the kind under which it queues).
--
-- Needs: Call, Errors, Events, Executions, Hashes, Keys.

local FIELDS = {
  'key', 'kind', 'status', 'at', 'attempt', 'name', 'code', 'input_digest', 'until', 'park', 'child_id', 'waitpoint_id',
  'ended_by', 'error', 'signals',
}
local INLINE = 512               -- bytes of entries that are kept in the execution's record
local PAGE_BYTES = 512 * 1024
-- A journal comes with its task up to so many entries, and so many bytes in all tasks of a call.
local RIDES, RIDES_BYTES = 200, 256 * 1024
local NOTHING = { n = 0, bytes = 0 }

local riding   -- bytes of journals that this call has given to tasks

Call.on_begin(function() riding = 0 end)

Journal.ENDED = { done = true, failed = true, canceled = true }

local function key_of(x) return Keys.of('j', x.id) end
local function place(n) return '\0' .. string.format('%d', n) end

local function encoded(e)
  local head, last = {}, #FIELDS
  while e[FIELDS[last]] == nil do last = last - 1 end
  for i = 1, last do
    local value = e[FIELDS[i]]
    head[i] = value == nil and '' or value
  end
  if e.name and e.key == e.kind .. ':' .. e.name then head[2], head[6] = true, true end
  return pack(head) .. pack(e.result or '')
end

-- Return an entry, with its place n and its size in bytes.
local function decoded(packed, n)
  local at, head = cmsgpack.unpack_one(packed)
  local _, result = cmsgpack.unpack_one(packed, at)
  local e = { n = n, size = #packed }
  for i, value in ipairs(head) do
    if value ~= '' then e[FIELDS[i]] = value end
  end
  if head[2] == true then e.kind, e.name = string.match(e.key, '^([^:]*):(.*)$') end
  if result ~= '' then e.result = result end
  return e
end

local function packed_at(x, n)
  local inline = x.journal.e
  if inline then return inline[n] end
  return Hashes.get(key_of(x), place(n))
end

-- Return the entry of a key, or nil.
function Journal.get(x, key)
  local j = x.journal
  if not j then return nil end
  if not j.e then
    local n = tonumber(Hashes.get(key_of(x), key))
    return n and decoded(packed_at(x, n), n)
  end
  for n, packed in ipairs(j.e) do
    local e = decoded(packed, n)
    if e.key == key then return e end
  end
end

local function spill(x)
  local key, j = key_of(x), x.journal
  for n, packed in ipairs(j.e) do
    Hashes.set(key, place(n), packed)
    Hashes.set(key, decoded(packed, n).key, n)
  end
  j.e = nil
end

-- Store an entry: one that Journal.get returned replaces what is there, any other one is new.
function Journal.put(x, e)
  local j = x.journal
  if not j then
    j = { n = 0, bytes = 0, e = {} }
    x.journal = j
  end
  local packed, new = encoded(e), not e.n
  if new then
    j.n = j.n + 1
    e.n = j.n
    if e.kind == 'compensate' then j.undo = true elseif e.kind == 'compensating' then j.undoing = true end
  end
  j.bytes = j.bytes + #packed - (e.size or 0)
  e.size = #packed
  if j.e then
    j.e[e.n] = packed
    if j.bytes > INLINE then spill(x) end
  else
    Hashes.set(key_of(x), place(e.n), packed)
    if new then Hashes.set(key_of(x), e.key, e.n) end
  end
end

-- Let what was put for an execution that is still to be created live for so long (ms), or for good (nil).
function Journal.lives(x, ms) Hashes.lives(key_of(x), ms) end

-- Return how many entries a journal has that was put so.
function Journal.prepared(x) return redis.call('HLEN', key_of(x)) / 2 end

local function max_entries() return Call.limits.journal_max_entries or 10000 end
local function max_bytes() return Call.limits.journal_max_bytes or 67108864 end

-- Return whether so many more bytes have room in the journal.
function Journal.has_room(x, bytes) return (x.journal or NOTHING).bytes + bytes <= max_bytes() end

-- Refuse what was put, if the journal is now above its bounds: the op fails, so that nothing is stored. Tell when it
-- gets near them. Errors: journal_full {entries, bytes, max_entries, max_bytes}.
function Journal.check_room(x)
  local j = x.journal or NOTHING
  if j.n > max_entries() or j.bytes > max_bytes() then
    Errors.raise('journal_full', { entries = j.n, bytes = j.bytes, max_entries = max_entries(), max_bytes = max_bytes() })
  end
  local full = math.max(j.n / max_entries(), j.bytes / max_bytes())
  local pct = full >= 0.8 and 80 or full >= 0.5 and 50 or 0
  if pct > (j.told or 0) then
    j.told = pct
    Executions.tell(x, 'journal_filling', { data = { pct = pct, entries = j.n, bytes = j.bytes } })
  end
end

-- Return the next entries in order, after place `after`, as one msgpack array:
-- [version, entries, bytes, max_entries, max_bytes, last place, whether there are more, head, result, head, result …].
function Journal.page(x, after, limit)
  local j = x.journal or NOTHING
  local found, bytes, n = {}, 0, after
  while n < j.n and #found < limit and bytes < PAGE_BYTES do
    n = n + 1
    found[#found + 1] = packed_at(x, n)
    bytes = bytes + #found[#found]
  end
  return Events.array_header(7 + 2 * #found) .. pack(x.version or '') .. pack(j.n) .. pack(j.bytes) .. pack(max_entries())
    .. pack(max_bytes()) .. pack(n) .. pack(n < j.n) .. table.concat(found)
end

-- Return the journal for a task: as above, in a table, with the entries as {head, result} and more = true if they did
-- not find room. nil for an execution without a journal.
function Journal.riding(x)
  local j = x.journal
  if not j and not x.version then return nil end
  j = j or NOTHING
  local found = {}
  local fits = j.n <= RIDES and riding + j.bytes <= RIDES_BYTES
  if fits then
    riding = riding + j.bytes
    for n = 1, j.n do
      local packed = packed_at(x, n)
      local at, head = cmsgpack.unpack_one(packed)
      local _, result = cmsgpack.unpack_one(packed, at)
      found[n] = { head, result }
    end
  end
  return {
    version = x.version, count = j.n, bytes = j.bytes, max_entries = max_entries(), max_bytes = max_bytes(), items = found,
    more = not fits,
  }
end

-- Return the entry at a place.
function Journal.at(x, n) return decoded(packed_at(x, n), n) end

-- Return an entry as it is in replies.
function Journal.view(e)
  local view = {}
  for _, name in ipairs(FIELDS) do view[name] = e[name] end
  view.n, view.result, view.park = e.n, e.result, nil
  return view
end

-- Record the version of the code that begins this execution, unless one is recorded. pin: from now on only workers that
-- take the kind `<kind>@<version>` get it.
function Journal.record_version(x, version, pin)
  if not version or x.version then return end
  x.version = version
  if pin then x.pinned = x.kind .. '@' .. version end
  redis.call('ZADD', Keys.versions(x.kind), 0, version)
  Executions.tell(x, 'version_recorded', { actor = x.worker_id and 'worker:' .. x.worker_id, data = { version = version, pinned = x.pinned } })
end
