-- Waits: journal entries of status `waiting`, which the state machine ends: at a time (e['until']), by the signals of a
-- waitpoint (e.waitpoint_id), or with a child (e.child_id). It ends them whether the execution is suspended or runs, in the
-- step in which the signal comes or the child ends; times only while the execution is parked on them.
--
-- x.park {id, n, any, times}: the execution is suspended until waits have ended. Their entries have e.park = id, which is
-- the epoch of the lease that parked. n: how many have not ended (nil: one); any: the first one is enough; times: the
-- places of those that end at a time, soonest first (x.wake_at is the first one's). x.hold {code, key, message}: what an
-- operator has to decide. x.woken: ids of published events that have ended a wait. x.parent_entry: the key of the entry in
-- the parent's journal that waits for this child.
--
-- Needs: Call, Conditions, Errors, Executions, FlowWaits, Journal, Payloads, Records, States, Waitpoints.

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
  local left = (park.n or 1) - 1
  park.n = left
  if not park.any and left > 0 then return false end
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

-- A published event has come for a waitpoint that awaits it: it is a signal, named as its topic. Each event is taken by
-- one wait of an execution, so that the next wait for the same topic and id needs another event.
function Waits.event_came(w, topic, event_id, body)
  local x = Records.edit('x', w.execution_id)
  if not FlowWaits.remember(x, event_id) then return end
  local signal = { signal_id = event_id, name = topic, source = 'event', payload = body }
  w = Records.edit('w', w.id)
  Waitpoints.keep(w, signal)
  Waitpoints.tell_signal(w, 'signal_recorded', signal)
  local names = Conditions.met(w.condition, w.tally)
  if names then Waits.signaled(x, w, names, 'signal-router') end
end

-- Make an entry wait for signals. spec: {id (of a new waitpoint), key, condition, event {topic, correlation_id} (that may
-- have come before, and counts as a signal)}. A pending waitpoint of the key is taken over with the signals that it has
-- buffered, which may end the wait at once. The entry is stored.
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
  Waitpoints.listen(w, spec.condition, e.key, spec.event, actor)
  local names = Conditions.met(w.condition, w.tally)
  if names then
    Waits.signaled(x, w, names, actor)
  elseif spec.event then
    local event = FlowWaits.kept_event(spec.event, x.woken)
    if event then Waits.event_came(w, spec.event.topic, event.event_id, event.body) end
  end
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

-- running → suspended until one (any) or every one of these entries has ended; none of them has yet. data: for the event.
function Waits.park(x, entries, any, actor, data)
  local id, n, reason, timed = x.lease_epoch, #entries, nil, {}
  for _, e in ipairs(entries) do
    local why = WHY[kind_of(e)]
    reason = (not reason or reason == why) and why or 'waits'
    e.park = id
    Journal.put(x, e)
    if e['until'] then timed[#timed + 1] = e end
  end
  table.sort(timed, function(a, b) return a['until'] < b['until'] end)
  local times
  for i, e in ipairs(timed) do
    times = times or {}
    times[i] = e.n
  end
  local wake_at = times and timed[1]['until']
  data.wake_at = wake_at
  if n > 1 then data.waits, data.mode = n, any and 'any' or 'all' end
  States.transition(x, 'suspended', { reason = reason, actor = actor, data = data })
  x.park = { id = id, n = n > 1 and n or nil, any = n > 1 and any or nil, times = times }
  x.wake_at, x.wake_by = wake_at, nil
end

-- The next time of a parked execution has come: end the waits that end by now.
function Waits.due(x)
  local park = x.park
  while x.state == 'suspended' and x.wake_at and x.wake_at <= Call.now do
    local e = Journal.at(x, table.remove(park.times, 1))
    local next = park.times[1] and Journal.at(x, park.times[1])
    x.wake_at = next and next['until']
    if not next then park.times = nil end
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
  local entries = {}
  for _, n in ipairs(park.times or {}) do entries[#entries + 1] = Journal.at(x, n) end
  for id in pairs(x.waitpoints or {}) do
    local w = Records.read('w', id)
    local e = w and w.entry and Journal.get(x, w.entry)
    if e and not e['until'] then entries[#entries + 1] = e end
  end
  for _, e in ipairs(entries) do
    if not Journal.ENDED[e.status] and e.park == park.id then
      time_up(x, e, 'operator')
      if e.status == 'retry' then
        e['until'] = Call.now
        Journal.put(x, e)
      end
    end
  end
end

-- An execution is not suspended any more: forget what it was parked on.
function Waits.left(x) x.park, x.hold = nil, nil end
