-- The signal-router's ops: waits and wakes. Tokens never come here: they are made and checked outside.
--
-- Needs: Call, Conditions, Dispatch, Due, Errors, Executions, Fences, Keys, Records, States, Waitpoints.
local ops = Ops.signal_router

local ACTOR = 'signal-router'

-- What the service needs to know of a waitpoint to make and check its tokens; it never changes.
local function facts(w) return { waitpoint_id = w.id, execution_id = w.execution_id, key = w.key, created_at = w.created_at } end

-- Makes the reply of a verb that hands out a token.
local function with_facts(w, reply)
  for name, value in pairs(facts(w)) do reply[name] = value end
  return reply
end

-- secrets: the ring of signing keys (partition 0), made of `offer` if there is none yet. args: offer (packed ring).
-- reply: {ring}. errors, events: none.
function ops.secrets(a)
  local key = Keys.secrets()
  if a.offer then redis.call('SET', key, a.offer, 'NX') end
  return { ring = redis.call('GET', key) or nil }
end

-- create: a pending waitpoint; signals to it are buffered. The same key again, while it is pending, answers the same.
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

-- The pending waitpoint that a suspension names. Errors: waitpoint_not_found.
local function claimed(x, a)
  local w = Records.edit('w', a.waitpoint_id)
  local ours = w and w.execution_id == x.id
  if ours and (Waitpoints.pending(w) or w.lease_id == a.lease_id) then return w end
  Errors.raise('waitpoint_not_found', { waitpoint_id = a.waitpoint_id, state = ours and w.state or nil })
end

-- suspend: running → suspended(signal), waiting on a pending waitpoint or on a new one; what was buffered is
-- evaluated in the same step and may mean that there is nothing to wait for.
-- args: fence, id (of a new one), waitpoint_id or waitpoint_key, condition (see conditions.lua), reason_code, timeout_ms,
-- timeout_behavior. reply: {outcome: suspended, suspension_id, facts} or {outcome: already_satisfied, items, waitpoint_id};
-- {outcome: canceled} when cancellation was asked for.
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
      -- A repeat is answered alike, and a worker that takes over after a crash still finds the signals.
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

-- peek: the facts of a waitpoint, or nil. args: waitpoint_id. reply: facts. errors, events: none.
function ops.peek(a)
  local w = Records.read('w', a.waitpoint_id)
  return w and facts(w) or nil
end

-- reject: a signal was refused. args: waitpoint_id (optional), event (token_rejected | signal_rejected), reason.
-- errors: none. events: waitpoint token_rejected | signal_rejected.
function ops.reject(a) Waitpoints.refused(a.waitpoint_id, a.event, a.reason) end

-- deliver: one signal, by what its waitpoint is now. Its token was checked.
-- args: waitpoint_id, signal_id, name, source, payload. reply: {effect, signal_id}; effect: duplicate (this id came
-- before), ignored (the waitpoint has ended), buffered (pending), recorded (open, condition not met yet) or resumed.
-- errors: invalid_token (the waitpoint has retired meanwhile), payload_too_large (it is full).
-- events: waitpoint signal_ignored | signal_buffered | signal_recorded, satisfied; resumed.
function ops.deliver(a)
  local w = Records.read('w', a.waitpoint_id)
  if not w then Errors.raise('invalid_token') end
  local function answer(effect) return { effect = effect, signal_id = a.signal_id } end
  -- A repeat is a repeat, whatever the limits say.
  if Waitpoints.knows(w, a.signal_id) then return answer('duplicate') end
  w = Records.edit('w', a.waitpoint_id)
  if w.state == 'pending' and not Waitpoints.pending(w) then Waitpoints.expire(w) end
  if w.state ~= 'pending' and w.state ~= 'open' then
    Waitpoints.tell_signal(w, 'signal_ignored', a)
    return answer('ignored')
  end
  Waitpoints.keep(w, a)
  if w.state == 'pending' then
    Waitpoints.tell_signal(w, 'signal_buffered', a)
    return answer('buffered')
  end
  Waitpoints.tell_signal(w, 'signal_recorded', a)
  local names = Conditions.met(w.condition, w.tally)
  if not names then return answer('recorded') end
  local x = Records.edit('x', w.execution_id)
  Waitpoints.satisfy(x, w, names, ACTOR)
  Executions.resume(x, 'signal', ACTOR, { waitpoint_id = w.id, signal_id = a.signal_id })
  return answer('resumed')
end

-- resumed_by: the signals that the execution was resumed by; none after a timeout, an operator or in a new attempt.
-- args: fence, skip, limit. reply: {items, more}. errors: fence errors.
function ops.resumed_by(a)
  local x = Fences.hold(a)
  local w = x.resumed and x.woken_by and Records.read('w', x.woken_by)
  if not w then return { items = {} } end
  local items, more = Waitpoints.items(w, a.skip, a.limit)
  return { items = items, more = more }
end

-- A suspension lasted too long.
local TIMEOUT = {}

function TIMEOUT.fail(x)
  Executions.expire(x, 'the suspension timed out', 'suspension_timeout')
end

function TIMEOUT.cancel(x) Executions.cancel(x, 'suspension_timeout', 'canceled', ACTOR) end

function TIMEOUT.resume(x) Executions.resume(x, 'timeout', ACTOR) end

-- Somebody should look: told once, and the wait goes on without a limit.
function TIMEOUT.escalate(x)
  x.wake_at, x.on_timeout = nil, nil
  x.updated_at = Call.now
  Executions.tell(x, 'escalated', { reason = 'suspension_timeout', actor = ACTOR, data = { waitpoint_id = x.waiting_on } })
end

local function due_execution(x)
  if x.state == 'suspended' and x.on_timeout and x.wake_at and x.wake_at <= Call.now then TIMEOUT[x.on_timeout](x) end
end

local function due_waitpoint(w)
  if w.state == 'pending' then
    if w.expires_at <= Call.now then Waitpoints.expire(w) end
  elseif w.retire_at and w.retire_at <= Call.now then
    Waitpoints.retire(w)
  end
end

-- due: suspensions time out, pending waitpoints expire, ended ones retire. args: limit. See Due.run.
function ops.due(a) return Due.run('signal_router', { x = due_execution, w = due_waitpoint }, a.limit) end

Dispatch.serve('signal_router')
