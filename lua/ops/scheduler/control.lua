-- The scheduler's ops that control an execution: run it now, change its priority or tags, replay it.
--
-- Needs: Call, Errors, Executions, Graph, Idempotency, Lanes, Payloads, Records, States, Waits.
local ops = Ops.scheduler

local ACTOR = 'operator'

-- run_now: end an execution's wait for a time; a ready execution stays ready. args: execution_id. reply: the record.
-- errors: execution_not_found, execution_not_eligible {state, reason} (it waits for something else, or already runs),
-- retry_exhausted {attempt_index, max_attempts}, already_terminal {state, outcome}. events: ready or resumed.
function ops.run_now(a)
  local x = Executions.edit(a.execution_id)
  if x.state == 'retry_wait' or (x.state == 'scheduled' and x.reason == 'time') then
    States.transition(x, 'ready', { why = 'run_now', actor = ACTOR })
  elseif x.state == 'suspended' and x.reason == 'delay' then
    Waits.skip(x)
    Executions.resume(x, 'run_now', ACTOR)
  elseif x.state == 'failed' and (x.attempt_index or 0) >= (x.max_attempts or 1) then
    Errors.raise('retry_exhausted', { attempt_index = x.attempt_index, max_attempts = x.max_attempts or 1 })
  elseif States.TERMINAL[x.state] then
    Errors.raise('already_terminal', { state = x.state, outcome = x.outcome })
  elseif x.state ~= 'ready' then
    Errors.raise('execution_not_eligible', { state = x.state, reason = x.reason })
  end
  return Executions.view(x)
end

-- Return an execution that has not ended, to change fields other than its state.
-- Errors: execution_not_found, already_terminal.
local function live(id)
  local x = Executions.edit(id)
  if States.TERMINAL[x.state] then Errors.raise('already_terminal', { state = x.state, outcome = x.outcome }) end
  return x
end

-- change_priority: change the priority, and with it the place in the queue. args: execution_id, priority.
-- reply: the record. errors: execution_not_found, already_terminal. events: priority_changed.
function ops.change_priority(a)
  local x = live(a.execution_id)
  local from = x.priority or 0
  if from ~= a.priority then
    x.priority = a.priority
    x.updated_at = Call.now
    Executions.tell(x, 'priority_changed', { actor = ACTOR, data = { priority = a.priority, before = from } })
  end
  return Executions.view(x)
end

local function equal(one, other)
  for name, value in pairs(one) do
    if other[name] ~= value then return false end
  end
  for name in pairs(other) do
    if one[name] == nil then return false end
  end
  return true
end

-- set_tags: replace all tags. args: execution_id, tags. reply: the record.
-- errors: execution_not_found, already_terminal. events: tags_changed.
function ops.set_tags(a)
  local x = live(a.execution_id)
  if not equal(x.tags or {}, a.tags) then
    x.tags = next(a.tags) and a.tags or nil
    x.updated_at = Call.now
    Executions.tell(x, 'tags_changed', { actor = ACTOR, data = x.tags and { tags = x.tags } })
  end
  return Executions.view(x)
end

-- replay: create a new execution with the spec of an ended one, in the same partition; the old one does not change.
-- Times (run_at, deadline), flow and parent are not copied.
-- args: id (of the new execution), again (as in create), execution_id (of the old one), override (true: `input`
-- replaces the old input; nil is null), input, traceparent.
-- reply: {execution_id, state, duplicate, replay_of}; or {input, edge_inputs} if flow edges passed results to the old
-- execution: the caller then merges them and calls again with override.
-- errors: execution_not_found, execution_not_eligible {state, reason}, or {lane, lane_status} (the lane drains).
-- events: created.
function ops.replay(a)
  local old = Executions.read(a.execution_id)
  -- The command came twice (the service's connection broke before the first reply), as in create.
  local x = Records.read('x', a.id)
  local duplicate = x ~= nil and a.again or false
  if not x then
    if not States.TERMINAL[old.state] then
      Errors.raise('execution_not_eligible', { state = old.state, reason = old.reason })
    end
    Lanes.admit(old.lane)
    local spec = Executions.spec_of(old)
    spec.input, spec.traceparent = a.input, a.traceparent
    if not a.override then
      spec.input = Payloads.of(old, 'input')
      local handed_on = old.flow_id and Graph.inputs(old)
      if handed_on then return { input = spec.input, edge_inputs = handed_on } end
    end
    x = Executions.create(a.id, spec, { namespace = old.namespace, replay_of = old.id, actor = ACTOR })
  end
  return { execution_id = a.id, state = x.state, duplicate = duplicate, replay_of = old.id }
end

-- remember: keep an idempotency key whose execution will live in another partition. The id of that execution is kept
-- here first, so that a retry after a crash continues with the same id.
-- args: verb, namespace, key, digest, execution_id. reply: {execution_id, reply (the first one, once it is settled)}.
-- errors: idempotency_conflict. events: none.
function ops.remember(a)
  local kept = Idempotency.check(a.verb, a.namespace, a.key, a.digest)
  if kept then return { execution_id = kept.execution_id, reply = kept.state and kept } end
  Idempotency.keep(a.verb, a.namespace, a.key, a.digest, { execution_id = a.execution_id })
  return { execution_id = a.execution_id }
end

-- settle: keep the final reply, as the execution of `remember` was created. args: verb, namespace, key, digest, reply.
function ops.settle(a) Idempotency.keep(a.verb, a.namespace, a.key, a.digest, a.reply) end

-- forget: free the key again, as the execution of `remember` was refused. args: verb, namespace, key.
function ops.forget(a) Idempotency.drop(a.verb, a.namespace, a.key) end
