-- The signal-router's ops that suspend executions on waitpoints and deliver signals. Only Python sees tokens.
--
-- Needs: Call, Conditions, Errors, Executions, Fences, Records, States, Waitpoints, Waits.
local ops = Ops.signal_router

local ACTOR = 'signal-router'

-- Return the facts of a waitpoint from which the service makes and checks its tokens. They never change.
local function facts(w) return { waitpoint_id = w.id, execution_id = w.execution_id, key = w.key, created_at = w.created_at } end

-- Add a waitpoint's facts to the reply of a verb that hands out a token.
local function with_facts(w, reply)
  for name, value in pairs(facts(w)) do reply[name] = value end
  return reply
end

-- create: create a pending waitpoint, which buffers its signals. If one with this key is pending already, return that.
-- args: fence, id, waitpoint_key, expires_in_ms. reply: facts, expires_at.
-- errors: fence errors, invalid_request. events: waitpoint created.
function ops.create(a)
  local x = Fences.hold(a)
  local w = Waitpoints.find(x, a.waitpoint_key)
  if not w then
    Waitpoints.check_room(x)
    w = Waitpoints.create(x, a.id, a.waitpoint_key, Call.now + a.expires_in_ms, 'worker:' .. x.worker_id)
  end
  return with_facts(w, { expires_at = w.expires_at })
end

local function already_satisfied(w)
  return { outcome = 'already_satisfied', waitpoint_id = w.id, items = (Waitpoints.items(w, 0, w.n)) }
end

-- Return the pending waitpoint that a suspension names (or one that this lease already found satisfied).
-- Errors: waitpoint_not_found.
local function claimed(x, a)
  local w = Records.edit('w', a.waitpoint_id)
  local ours = w and w.execution_id == x.id
  if ours and (Waitpoints.pending(w) or w.lease_id == a.lease_id) then return w end
  Errors.raise('waitpoint_not_found', { waitpoint_id = a.waitpoint_id, state = ours and w.state or nil })
end

-- suspend: running → suspended(signal), on a pending waitpoint or on a new one. The condition is first checked against
-- the buffered signals; if they already meet it, the execution keeps running.
-- args: fence, id (of a new waitpoint), waitpoint_id or waitpoint_key, condition (see conditions.lua), reason_code,
-- timeout_ms, timeout_behavior. reply: {outcome: suspended, suspension_id, facts} or {outcome: already_satisfied,
-- items, waitpoint_id}; {outcome: canceled} if cancellation was requested.
-- errors: fence errors, illegal_transition, waitpoint_not_found, waitpoint_pending_use_buffer.
-- events: suspended; waitpoint created, opened, satisfied.
function ops.suspend(a)
  local x, repeated = Fences.hold(a, 'suspend')
  if not x then return repeated end
  States.check(x, 'suspended')
  local actor = 'worker:' .. x.worker_id
  if Executions.cancel_if_asked(x, actor) then
    return Fences.consume(x, a, 'suspend', { outcome = 'canceled' })
  end
  local w
  if a.waitpoint_id then
    w = claimed(x, a)
    if w.state == 'satisfied' then return already_satisfied(w) end
    local names = Conditions.met(a.condition, w.tally)
    if names then
      Waitpoints.satisfy(x, w, names, actor)
      -- So a repeat gets the same reply, and a worker that takes over after a crash still finds the signals.
      w.lease_id, x.resumed = a.lease_id, true
      return already_satisfied(w)
    end
  else
    local waiting = Waitpoints.find(x, a.waitpoint_key)
    if waiting then
      Errors.raise('waitpoint_pending_use_buffer', { waitpoint_id = waiting.id },
        'a pending waitpoint with this key buffers signals: name its waitpoint_id')
    end
  end
  local timeout_at = a.timeout_ms and Call.now + a.timeout_ms or nil
  local suspension_id = Call.unique()
  local waitpoint_id = w and w.id or a.id
  States.transition(x, 'suspended', { reason = 'signal', why = a.reason_code, actor = actor, data = {
    suspension_id = suspension_id, waitpoint_id = waitpoint_id, timeout_at = timeout_at,
    timeout_behavior = timeout_at and a.timeout_behavior or nil,
  } })
  x.wake_at, x.wake_by, x.on_timeout = timeout_at, nil, timeout_at and a.timeout_behavior or nil
  w = w or Waitpoints.create(x, waitpoint_id, a.waitpoint_key, nil, actor)
  Waitpoints.open(x, w, a.condition, actor)
  return Fences.consume(x, a, 'suspend', with_facts(w, { outcome = 'suspended', suspension_id = suspension_id }))
end

-- peek: return the facts of a waitpoint. args: waitpoint_id. reply: facts, or nil. errors, events: none.
function ops.peek(a)
  local w = Records.read('w', a.waitpoint_id)
  return w and facts(w) or nil
end

-- reject: record a refused signal. args: waitpoint_id (optional), event (token_rejected | signal_rejected), reason.
-- errors: none. events: waitpoint token_rejected | signal_rejected.
function ops.reject(a) Waitpoints.refused(a.waitpoint_id, a.event, a.reason) end

-- Return a reply of signal.deliver, packed: the msgpack header of a map of 2 pairs, and these.
local function answer(a, effect) return '\130' .. pack('effect', effect, 'signal_id', a.signal_id) end

-- Handle a signal according to its waitpoint's state. by: as in Waitpoints.tell_signal. Return signal.deliver's reply.
local function deliver(w, a, by)
  -- Check for a repeat first: a full waitpoint must not refuse it.
  if Waitpoints.knows(w, a.signal_id) then return answer(a, 'duplicate') end
  w = Records.edit('w', w.id)
  if w.state == 'pending' and not Waitpoints.pending(w) then Waitpoints.expire(w) end
  if w.state ~= 'pending' and w.state ~= 'open' then
    Waitpoints.tell_signal(w, 'signal_ignored', a, by)
    return answer(a, 'ignored')
  end
  Waitpoints.keep(w, a)
  if w.state == 'pending' then
    Waitpoints.tell_signal(w, 'signal_buffered', a, by)
    return answer(a, 'buffered')
  end
  Waitpoints.tell_signal(w, 'signal_recorded', a, by)
  local names = Conditions.met(w.condition, w.tally)
  if not names then return answer(a, 'recorded') end
  local x = Records.edit('x', w.execution_id)
  local actor = by and by.actor or ACTOR
  if w.entry then return answer(a, Waits.signaled(x, w, names, actor) and 'resumed' or 'recorded') end
  Waitpoints.satisfy(x, w, names, actor)
  Executions.resume(x, 'signal', actor, { waitpoint_id = w.id, signal_id = a.signal_id })
  return answer(a, 'resumed')
end

-- deliver: deliver one signal, whose token the service has checked.
-- args: waitpoint_id, signal_id, name, source, payload. reply: {effect, signal_id}; effect: duplicate (this id came
-- before), ignored (the waitpoint has ended), buffered (pending), recorded (open, condition not met yet) or resumed.
-- errors: invalid_token (the waitpoint has retired or an operator closed it), payload_too_large (waitpoint full).
-- events: waitpoint signal_ignored | signal_buffered | signal_recorded, satisfied; resumed.
function ops.deliver(a)
  local w = Records.read('w', a.waitpoint_id)
  if not w or w.dead then Errors.raise('invalid_token') end
  return deliver(w, a)
end

-- Return the waitpoint that an operator's signal is for: the one that the execution is suspended on, or the only one (of
-- that key) that takes signals.
-- Errors: waitpoint_not_found.
local function meant(x, key)
  local only, n = nil, 0
  for id, its in pairs(x.waitpoints or {}) do
    local w = (not key or its == key) and Records.read('w', id)
    if w and id == x.waiting_on then return w end
    if w and Waitpoints.takes(w) then only, n = w, n + 1 end
  end
  if n == 1 then return only end
  Errors.raise('waitpoint_not_found', { execution_id = x.id, waitpoint_key = key },
    n > 1 and 'the execution has several waitpoints: name one by its waitpoint_key' or nil)
end

-- send: deliver an operator's signal (no token). args: execution_id, waitpoint_key, signal_id, name, payload, reason.
-- reply: as deliver. errors: execution_not_found, waitpoint_not_found, payload_too_large. events: as deliver.
function ops.send(a)
  local w = meant(Executions.read(a.execution_id), a.waitpoint_key)
  return deliver(w, a, { actor = 'operator', reason = a.reason ~= '' and a.reason or nil })
end

-- resumed_by: return the signals that resumed the execution; none after a timeout, an operator or in a new attempt.
-- args: fence, skip, limit. reply: {items, more}. errors: fence errors.
function ops.resumed_by(a)
  local x = Fences.hold(a)
  local w = x.resumed and x.woken_by and Records.read('w', x.woken_by)
  if not w then return { items = {} } end
  local items, more = Waitpoints.items(w, a.skip, a.limit)
  return { items = items, more = more }
end
