-- The life of an execution: how one is made, set free, resumed, canceled, ended and retired.
--
-- Needs: Call, Keys, Lanes, Payloads, Records, States.

-- Makes an execution. spec: fields of execution.create, checked; extra: {flow_id, member, parent_id, replay_of,
-- parent_close, unique_key, namespace, held (true: waits for its dependencies), actor, schedule_id and due_at (for the event)}. The first event tells
-- its first state.
function Executions.create(id, spec, extra)
  local x = {
    kind = spec.kind, lane = spec.lane or 'default', namespace = extra.namespace, priority = spec.priority,
    max_attempts = spec.max_attempts, backoff = spec.backoff, retry_on = spec.retry_on, fail_on = spec.fail_on,
    attempt_timeout_ms = spec.attempt_timeout_ms, deadline_at = spec.deadline_at, tags = spec.tags,
    fairness_key = spec.fairness_key, max_reclaims = spec.max_reclaims, retention_ms = spec.retention_ms,
    parent_close = extra.parent_close, unique_key = extra.unique_key, limit = spec.limit, quota_id = spec.quota_id, concurrency_key = spec.concurrency_key,
    flow_id = extra.flow_id, member = extra.member, parent_id = extra.parent_id, replay_of = extra.replay_of,
    fresh = true, created_at = Call.now, updated_at = Call.now,
  }
  if spec.capabilities and #spec.capabilities > 0 then x.caps = table.concat(spec.capabilities, ',') end
  if spec.run_at and spec.run_at > Call.now then x.wake_at = spec.run_at end
  if extra.held then
    x.state, x.reason = 'scheduled', 'dependencies'
  elseif x.wake_at then
    x.state, x.reason = 'scheduled', 'time'
  else
    x.state, x.ready_at = 'ready', Call.now
  end
  Records.create('x', id, x)
  local parent = x.parent_id and Records.edit('x', x.parent_id)
  if parent then parent.children_open = (parent.children_open or 0) + 1 end
  Payloads.hold(x, 'input', spec.input)
  Executions.tell(x, 'created', { to = x.state, reason = x.reason, actor = extra.actor, data = {
    kind = x.kind, lane = x.lane, parent_id = x.parent_id, replay_of = x.replay_of,
    schedule_id = extra.schedule_id, due_at = extra.due_at,
  } })
  Lanes.used(x.lane)
  return x
end

-- A scheduled execution whose dependencies are met: ready, or waiting for its time.
function Executions.release(x, actor)
  if x.wake_at and x.wake_at > Call.now then
    States.waits(x, 'time', { event = 'released', actor = actor })
  else
    x.wake_at = nil
    States.transition(x, 'ready', { actor = actor })
  end
end

-- suspended → ready: what it waited for has come, or it need not wait any more. The same attempt goes on.
function Executions.resume(x, why, actor, data)
  x.via, x.resumed = 'resumed', true
  States.transition(x, 'ready', { event = 'resumed', why = why, actor = actor, data = data })
end

-- Whether cancellation was asked for: of it, or of all its flow (whose members are told one after the other).
function Executions.canceling(x)
  if x.cancel_requested then return true end
  local f = x.flow_id and Records.read('f', x.flow_id)
  return f ~= nil and f.status == 'cancelled' and f.cancel_policy == 'cancel_all'
end

-- Ends an execution as canceled, whatever state it is in. outcome: 'canceled' or 'skipped'.
-- Errors: already_terminal.
function Executions.cancel(x, why, outcome, actor)
  States.transition(x, 'canceled', { outcome = outcome, why = why, actor = actor })
end

-- If cancellation was asked for, it ends as canceled, whatever its worker says. Returns whether it did.
function Executions.cancel_if_asked(x, actor)
  if not Executions.canceling(x) then return false end
  Executions.cancel(x, x.cancel_reason or 'canceled', 'canceled', actor)
  return true
end

-- Calls move(), which ends the lease that a worker holds, or may hold, against its will: the worker is told that it is gone.
function Executions.revoking(x, move)
  local lease_id, worker_id = x.lease_id, x.worker_id
  move()
  if lease_id then
    x.lost = { lease_id = lease_id, why = 'revoked' }
    Call.hint_item('cancel', { worker_id, x.id, lease_id })
  end
end

-- As Executions.cancel, and a worker that holds it is told.
function Executions.stop(x, why, outcome, actor)
  Executions.revoking(x, function() Executions.cancel(x, why, outcome, actor) end)
end

-- Fails for good because its time is up; a worker that holds it is told. category: of the failure.
function Executions.expire(x, reason, category)
  x.failure = Executions.failure(x, reason, category)
  Executions.revoking(x, function() States.transition(x, 'failed', { why = category, data = { category = category } }) end)
end

-- Retention is over: the execution leaves Valkey; its audit events stay.
function Executions.retire(x)
  local id = x.id
  Payloads.release(x, 'input')
  Payloads.release(x, 'result')
  Records.unlink(Keys.of('h', id))
  Records.unlink(Keys.of('fr', id))
  Lanes.left(x.lane)
  Records.delete('x', id)
end
