-- The lease-keeper's ops on the journal of a durable function: what it has done, and what it waits for.
--
-- Needs: Entries, Errors, Executions, Fences, Journal, States, Waits.
local ops = Ops.lease_keeper

-- journal_open: return the journal of a held execution, after place `after`. args: fence, version (recorded, unless one
-- is), pin, after, limit. reply: packed, see Journal.page. errors: fence errors. events: version_recorded.
function ops.journal_open(a)
  local x = Fences.hold(a)
  Journal.record_version(x, a.version, a.pin)
  return Journal.page(x, a.after, a.limit)
end

-- journal_read: the same without a lease. args: execution_id, after, limit. errors: execution_not_found.
function ops.journal_read(a) return Journal.page(Executions.read(a.execution_id), a.after, a.limit) end

-- journal_append: store entries, all or none. args: fence, entries, version, pin. reply: {results, count, bytes}.
-- errors: fence errors, those of Entries.store. events: those of Entries.store.
function ops.journal_append(a)
  local x = Fences.hold(a)
  local results = Entries.store(x, a.entries, a.version, a.pin, 'worker:' .. x.worker_id)
  return { results = results, count = x.journal.n, bytes = x.journal.bytes }
end

-- Return the entries that a park waits for: those just stored that wait, and those that `keys` names.
-- Errors: journal_entry_not_found {key}, invalid_request (there is none).
local function awaited(x, stored, a)
  local waits, known = {}, {}
  local function add(e)
    if not known[e.key] then waits[#waits + 1] = e end
    known[e.key] = true
  end
  for i, e in ipairs(stored) do
    local status = a.entries[i].status
    if status == 'waiting' or status == 'retry' then add(e) end
  end
  for _, key in ipairs(a.keys) do
    local e = not known[key] and Journal.get(x, key)
    if e then add(e) elseif not known[key] then Errors.raise('journal_entry_not_found', { key = key }) end
  end
  if #waits == 0 then Errors.invalid('keys', 'name a wait, here or among the entries') end
  return waits
end

-- park: store entries and suspend until waits have ended. running → suspended. args: fence, entries, keys, any (true: until
-- the first one has), hold {code, key, message} (instead, until an operator resumes), version, pin.
-- reply: {outcome: suspended, wake_at}; {outcome: already_satisfied, results, items}; {outcome: canceled} if cancellation
-- was requested. errors: fence errors, illegal_transition, journal_entry_not_found, those of Entries.store.
-- events: suspended, with what journal_appended would tell (or canceled); those of Entries.store.
function ops.park(a)
  local x, repeated = Fences.hold(a, 'park')
  if not x then
    -- `true` is kept instead of the usual reply: it is small, and a million functions may sleep.
    return repeated == true and { outcome = 'suspended', wake_at = Executions.read(a.execution_id).wake_at } or repeated
  end
  States.check(x, 'suspended')
  local actor = 'worker:' .. x.worker_id
  -- A compensation may wait for its next try.
  if not Executions.undoing(x) and Executions.cancel_if_asked(x, actor) then return Fences.consume(x, a, 'park', { outcome = 'canceled' }) end
  local results, stored = Entries.store(x, a.entries, a.version, a.pin, actor)
  if a.hold then
    States.transition(x, 'suspended', { reason = 'operator', why = a.hold.code, actor = actor, data = { key = a.hold.key, message = a.hold.message } })
    x.hold = a.hold
    Fences.consume(x, a, 'park', true)
    return { outcome = 'suspended' }
  end
  local open, items = {}, {}
  for _, e in ipairs(awaited(x, stored, a)) do
    if Waits.over(x, e) then items[#items + 1] = Journal.view(e) else open[#open + 1] = e end
  end
  if #open == 0 or (a.any and #items > 0) then return { outcome = 'already_satisfied', results = results, items = items } end
  Waits.park(x, open, a.any, actor, Entries.untold(x) or { key = open[1].key })
  Fences.consume(x, a, 'park', true)
  return { outcome = 'suspended', wake_at = x.wake_at }
end
