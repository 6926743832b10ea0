-- Entries that a worker stores in the journal of its execution, and forks: journals that are copied.
--
-- Needs: Call, Errors, Executions, Journal, Notes, Undo, Waitpoints, Waits.

-- At most so many keys of entries are named in an event, and so many entries of a journal are state.
local NAMED, MOST_STATE = 20, 100

local told = Notes.new()   -- execution -> {n, keys, actor}: entries of this call whose event is still to be told

-- Tell that an entry was stored: in one event for all that a call stores in a row.
local function tell_stored(x, key, actor)
  local about = told.of[x]
  if not about then
    about = { n = 0, keys = {} }
    Undo.put(told, x, about)
    Executions.tell_later(x, function()
      Undo.put(told, x, nil)
      Executions.tell(x, 'journal_appended', { actor = actor, data = about })
    end)
  end
  Undo.set(about, 'n', about.n + 1)
  if #about.keys < NAMED then Undo.append(about.keys, key) end
end

-- Return what is to be told of entries that were stored, {n, keys}, for an event that tells it together with something
-- else. nil if there is nothing.
function Entries.untold(x)
  local about = told.of[x]
  if about then
    Undo.put(told, x, nil)
    Executions.tell_later(x, nil)
  end
  return about
end

-- Return whether what is stored stays, whatever a worker stores now: it has ended. State is set again and again; a
-- value that is not newer came late, or twice.
local function stays(e, a)
  if e.kind == 'state' and a.kind == 'state' then return a.attempt <= e.attempt end
  return Journal.ENDED[e.status] or false
end

-- Store an entry that a worker gives, in place of one that has not ended, or as a new one (e has a key only).
local function store(x, e, a, specs, actor)
  if e.status == 'waiting' then
    if e.waitpoint_id then Waitpoints.leave(x, e.waitpoint_id, a.status) end
    if not Journal.ENDED[a.status] then e.waitpoint_id, e.child_id = nil, nil end
  end
  e.kind, e.at, e.attempt, e.name, e.code, e.input_digest = a.kind, Call.now, a.attempt, a.name, a.code, a.input_digest
  e.status, e.result, e.error, e.park = a.status, a.result, a.error, nil
  e['until'] = a['until'] or a.delay_ms and Call.now + a.delay_ms or nil
  if a.child then
    e.child_id = a.child.execution_id
    specs[#specs + 1] = { a.child, e.key }
  end
  if a.signal then Waits.listen(x, e, a.signal, actor) else Journal.put(x, e) end
end

-- Note the place of a new entry of state, for execution.query.
local function note_state(x, e)
  local states = table_at(x.journal, 'states')
  states[#states + 1] = e.n
  if #states > MOST_STATE then
    Errors.invalid('entries', 'a journal has at most ' .. MOST_STATE .. ' values of state')
  end
end

-- Store entries. list: checked, [{key, kind, status, name, attempt, code, input_digest, result, error [category, reason,
-- type], until, delay_ms, signal {id, key, condition}, child {execution_id, …spec}}]. Return the results, and the
-- entries as they are now. Errors: journal_full, invalid_request. events: journal_appended, version_recorded; created for
-- each child, waitpoint created, opened, satisfied.
function Entries.store(x, list, version, pin, actor)
  local results, entries, specs = {}, {}, {}
  Journal.record_version(x, version, pin)
  for i, a in ipairs(list) do
    local e = Journal.get(x, a.key)
    if e and stays(e, a) then
      results[i] = { key = a.key, outcome = 'exists', entry = Journal.view(e) }
    elseif e and e.status == 'waiting' and a.status == 'waiting' then
      -- A wait that is stored again keeps its time, its waitpoint, its child.
      results[i] = { key = a.key, outcome = 'stored', entry = Journal.view(e) }
    else
      local new = not e
      e = e or { key = a.key }
      store(x, e, a, specs, actor)
      if a.signal then e = Journal.get(x, a.key) end   -- its signals may have been there
      if new and a.kind == 'state' then note_state(x, e) end
      results[i] = { key = a.key, outcome = 'stored', entry = a.status == 'waiting' and Journal.view(e) or nil }
      tell_stored(x, a.key, actor)
    end
    entries[i] = e
  end
  Journal.check_room(x)
  for _, each in ipairs(specs) do
    local spec, key = each[1], each[2]
    Executions.create(spec.execution_id, spec, {
      parent_id = x.id, parent_entry = key, parent_close = spec.parent_close, namespace = x.namespace, actor = actor,
    })
  end
  return results, entries
end

-- Return the values of an execution's state: [{name, value, at}]. names: only these, or all if there is none.
function Entries.state(x, names)
  local wanted, found = {}, {}
  for _, name in ipairs(names) do wanted[name] = true end
  for _, n in ipairs(x.journal and x.journal.states or {}) do
    local e = Journal.at(x, n)
    if #names == 0 or wanted[e.name] then found[#found + 1] = { name = e.name, value = e.result, at = e.at } end
  end
  return found
end

-- A fork copies at most so many entries in one call, and begins none beyond so many bytes.
local COPIED, COPIED_BYTES = 100, 256 * 1024

-- Copy a part of an execution's journal for a fork `to` {id, journal {n, bytes}}: of the entries after place `from`, up to
-- and with `after_key`, or those before `before_key`, or all. Entries that have not ended, and state, are left out.
-- edits: [{key, result}]: these entries are done with another result. Return the place that was reached, whether there is
-- more to copy, and the keys that were edited. Errors: journal_entry_not_found {key}.
function Entries.copy(old, to, from, after_key, before_key, edits)
  local last, edit_of, edited = old.journal and old.journal.n or 0, {}, {}
  local stop = after_key or before_key
  if stop then
    local e = Journal.get(old, stop)
    if not e then Errors.raise('journal_entry_not_found', { key = stop }) end
    last = after_key and e.n or e.n - 1
  end
  for _, edit in ipairs(edits) do edit_of[edit.key] = edit end
  local n, bytes = from, to.journal.bytes
  while n < last and n - from < COPIED and to.journal.bytes - bytes < COPIED_BYTES do
    n = n + 1
    local e = Journal.at(old, n)
    local edit = edit_of[e.key]
    if (Journal.ENDED[e.status] or edit) and e.kind ~= 'state' then
      if edit then
        e.status, e.result, e.error, e.signals = 'done', edit.result, nil, nil
        edited[#edited + 1] = e.key
      end
      e.n, e.size, e.park, e.child_id, e.waitpoint_id = nil, nil, nil, nil, nil
      Journal.put(to, e)
    end
  end
  return n, n < last, edited
end
