-- Waits: journal entries of status `waiting`, which the state machine ends: at a time (e['until']), by the signals of a
-- waitpoint (e.waitpoint_id), or with a child (e.child_id). It ends them whether the execution is suspended or runs, in the
-- step in which the signal comes or the child ends; times only while the execution is parked on them.
--
-- x.park {id, n, any, times}: the execution is suspended until waits have ended. Their entries have e.park = id, which is
-- the epoch of the lease that parked. n: how many have not ended; any: the first one is enough; times: [time, key] of
-- those that end at a time, soonest first (x.wake_at is the first). x.hold {code, key, message}: what an operator has to
-- decide. x.parent_entry: the key of the entry in the parent's journal that waits for this child.
--
-- Needs: Call, Conditions, Errors, Executions, Journal, Payloads, Records, States, Waitpoints.

-- A signal's result in a journal: [signal_id, name, source, at, payload].
local function kept(signals)
  local list = {}
  for i, s in ipairs(signals) do list[i] = { s.signal_id, s.name, s.source or '', s.at, s.payload or '' } end
  return list
end

-- What an end of a wait is called as a reason, and the state's reason while parked on it.
local WHY = { signal = 'signal', time = 'delay', child = 'children' }

local function kind_of(e) return e.child_id and 'child' or e.waitpoint_id and 'signal' or 'time' end

-- A wait has ended, and so has its entry: if the execution is parked on it, and on nothing else that it needs, resume it.
-- Return whether it was resumed.
local function ended(x, e, by, actor)
  local park = x.state == 'suspended' and x.park
  if not park or e.park ~= park.id then return false end
  park.n = park.n - 1
  if not park.any and park.n > 0 then return false end
  Executions.resume(x, WHY[by], actor, { key = e.key, ended_by = by })
  return true
end

local function finish(x, e, status, by)
  e.status, e.ended_by, e.at = status, by, Call.now
  Journal.put(x, e)
end

-- A wait's time has come. An entry of status `retry` stays as it is: its step runs again.
local function time_up(x, e, by)
  if e.waitpoint_id then Waitpoints.leave(x, e.waitpoint_id, 'timeout') end
  if e.status == 'waiting' then finish(x, e, 'done', by) end
end

-- Return whether a wait has ended. A time that has passed is ended here.
function Waits.over(x, e)
  if Journal.ENDED[e.status] then return true end
  if not e['until'] or e['until'] > Call.now then return false end
  time_up(x, e, 'time')
  return true
end

-- Signals of these names meet the condition of a waitpoint that an entry waits for. Return whether x was resumed.
function Waits.signaled(x, w, names, actor)
  Waitpoints.satisfy(x, w, names, actor)
  local e = Journal.get(x, w.entry)
  if not e or e.status ~= 'waiting' or e.waitpoint_id ~= w.id then return false end
  if Journal.has_room(x, w.bytes) then
    e.signals = kept((Waitpoints.items(w, 0, w.n)))
    finish(x, e, 'done', 'signal')
  else
    e.error = { 'journal_full', 'the signals have no room in the journal' }
    finish(x, e, 'failed', 'signal')
  end
  return ended(x, e, 'signal', actor)
end

-- Make an entry wait for signals. spec: {id (of a new waitpoint), key, condition}. A pending waitpoint of the key is taken
-- over with the signals that it has buffered, which may end the wait at once. The entry is stored.
-- Errors: invalid_request (too many waitpoints, or another entry waits at this key).
function Waits.listen(x, e, spec, actor)
  for id, key in pairs(x.waitpoints or {}) do
    local other = key == spec.key and Records.read('w', id)
    if other and other.state == 'open' then
      Errors.invalid('waitpoint_key', 'the entry ' .. tostring(other.entry) .. ' waits at ' .. spec.key .. ' already')
    end
  end
  local w = Waitpoints.find(x, spec.key)
  if w then
    w = Records.edit('w', w.id)
  else
    Waitpoints.check_room(x)
    w = Waitpoints.create(x, spec.id, spec.key, nil, actor)
  end
  e.waitpoint_id = w.id
  Journal.put(x, e)
  Waitpoints.listen(w, spec.condition, e.key, actor)
  local names = Conditions.met(w.condition, w.tally)
  if names then Waits.signaled(x, w, names, actor) end
end

-- Return whether the waitpoint of a waiting entry still takes signals.
function Waits.listens(e)
  local w = e.waitpoint_id and Records.read('w', e.waitpoint_id)
  return w ~= nil and w.state == 'open'
end

-- An execution that an entry of its parent waits for has ended: end that wait.
function Waits.child_ended(child)
  if child.continued_by then return end
  local x = Records.read('x', child.parent_id)
  local e = x and not States.TERMINAL[x.state] and Journal.get(x, child.parent_entry)
  if not e or e.status ~= 'waiting' or e.child_id ~= child.id then return end
  x = Records.edit('x', x.id)
  if child.state == 'completed' then
    local result = Payloads.of(child, 'result')
    if Journal.has_room(x, #(result or '')) then
      e.result = result
      finish(x, e, 'done', 'child')
    else
      e.error = { 'journal_full', "the child's result has no room in the journal" }
      finish(x, e, 'failed', 'child')
    end
  else
    local failure = child.state == 'failed' and child.failure or {}
    e.error = { failure.category or child.state, failure.reason or child.cancel_reason or '' }
    finish(x, e, 'failed', 'child')
  end
  ended(x, e, 'child', 'lease-keeper')
end

-- Another execution goes on in place of a child: the parent's entry waits for that one.
function Waits.child_continues(child, id)
  local x = child.parent_entry and Records.edit('x', child.parent_id)
  local e = x and not States.TERMINAL[x.state] and Journal.get(x, child.parent_entry)
  if not e or e.status ~= 'waiting' or e.child_id ~= child.id then return end
  e.child_id = id
  Journal.put(x, e)
end

local MOST_TIMES = 100

-- running → suspended until one (any) or every one of these entries has ended; none of them has yet.
-- Errors: invalid_request (too many of them have a time).
function Waits.park(x, entries, any, actor)
  local park, reason = { id = x.lease_epoch, n = #entries, any = any or nil }, nil
  local times = {}
  for _, e in ipairs(entries) do
    local why = WHY[kind_of(e)]
    reason = (not reason or reason == why) and why or 'waits'
    e.park = park.id
    Journal.put(x, e)
    if e['until'] then times[#times + 1] = { e['until'], e.key } end
  end
  if #times > MOST_TIMES then
    Errors.invalid('keys', 'at most ' .. MOST_TIMES .. ' waits with a time fit into one park; these are ' .. #times)
  end
  table.sort(times, function(a, b) return a[1] < b[1] end)
  local first = times[1] and times[1][1]
  States.transition(x, 'suspended', { reason = reason, actor = actor, data = {
    waits = #entries, mode = any and 'any' or 'all', wake_at = first, key = entries[1].key,
  } })
  if first then park.times = times end
  x.park, x.wake_at, x.wake_by = park, first, first and 'lease_keeper' or nil
end

-- The next time of a parked execution has come: end the waits that end by now.
function Waits.due(x)
  local park = x.park
  while x.state == 'suspended' and park.times and park.times[1][1] <= Call.now do
    local key = table.remove(park.times, 1)[2]
    if not park.times[1] then park.times = nil end
    x.wake_at = park.times and park.times[1][1] or nil
    local e = Journal.get(x, key)
    if not Journal.ENDED[e.status] and e.park == park.id then
      time_up(x, e, 'time')
      ended(x, e, 'time', 'lease-keeper')
    end
  end
end

-- An operator lets a parked execution go on: end the times and signals that it is parked on. It is not resumed here.
function Waits.skip(x)
  local park = x.park
  if not park then return end
  local keys = {}
  for _, each in ipairs(park.times or {}) do keys[#keys + 1] = each[2] end
  for id in pairs(x.waitpoints or {}) do
    local w = Records.read('w', id)
    if w and w.entry then keys[#keys + 1] = w.entry end
  end
  for _, key in ipairs(keys) do
    local e = Journal.get(x, key)
    if e and not Journal.ENDED[e.status] and e.park == park.id then
      e['until'] = e.status == 'retry' and Call.now or e['until']
      time_up(x, e, 'operator')
      if e.status == 'retry' then Journal.put(x, e) end
    end
  end
end

-- An execution is not suspended any more: forget what it was parked on.
function Waits.left(x) x.park, x.hold = nil, nil end
