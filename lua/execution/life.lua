-- The life of an execution: create, release, resume, cancel, expire and retire it.
--
-- Needs: Call, Keys, Lanes, Payloads, Records, States.

-- Create an execution and return it. spec: fields of execution.create, checked; extra: {flow_id, member, parent_id,
-- replay_of, parent_close, unique_key, namespace, held (true: it waits for its dependencies), actor, schedule_id and
-- due_at (for the event)}. The event `created` carries the first state.
function Executions.create(id, spec, extra)
  local x = {
    kind = spec.kind, lane = spec.lane or 'default', namespace = extra.namespace, priority = spec.priority,
    max_attempts = spec.max_attempts, backoff = spec.backoff, retry_on = spec.retry_on, fail_on = spec.fail_on,
    attempt_timeout_ms = spec.attempt_timeout_ms, deadline_at = spec.deadline_at, tags = spec.tags,
    fairness_key = spec.fairness_key, max_reclaims = spec.max_reclaims, retention_ms = spec.retention_ms,
    parent_close = extra.parent_close, unique_key = extra.unique_key, limit = spec.limit, quota_id = spec.quota_id, concurrency_key = spec.concurrency_key,
    flow_id = extra.flow_id, member = extra.member, parent_id = extra.parent_id, replay_of = extra.replay_of,
    traceparent = spec.traceparent, fresh = true, created_at = Call.now, updated_at = Call.now,
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

-- The dependencies of a scheduled execution are met: make it ready, or let it wait for its run_at.
function Executions.release(x, actor)
  if x.wake_at and x.wake_at > Call.now then
    States.waits(x, 'time', { event = 'released', actor = actor })
  else
    x.wake_at = nil
    States.transition(x, 'ready', { actor = actor })
  end
end

-- suspended → ready: the execution's wait is over, or need not go on. The same attempt continues.
function Executions.resume(x, why, actor, data)
  x.via, x.resumed = 'resumed', true
  States.transition(x, 'ready', { event = 'resumed', why = why, actor = actor, data = data })
end

-- Return whether cancellation was requested, for the execution or for its whole flow. A cancelled flow's members are
-- canceled one after another, so the flow's status counts before its member is reached.
function Executions.canceling(x)
  if x.cancel_requested then return true end
  local f = x.flow_id and Records.read('f', x.flow_id)
  return f ~= nil and f.status == 'cancelled' and f.cancel_policy == 'cancel_all'
end

-- End an execution as canceled, from any state that is not terminal. outcome: 'canceled' or 'skipped'.
-- Errors: already_terminal.
function Executions.cancel(x, why, outcome, actor)
  States.transition(x, 'canceled', { outcome = outcome, why = why, actor = actor })
end

-- If cancellation was requested, end the execution as canceled, whatever its worker reports. Return whether it ended.
function Executions.cancel_if_asked(x, actor)
  if not Executions.canceling(x) then return false end
  Executions.cancel(x, x.cancel_reason or 'canceled', 'canceled', actor)
  return true
end

-- Run move(), which takes the execution from its worker, if it has one. Tell that worker that its lease is revoked.
function Executions.revoking(x, move)
  local lease_id, worker_id = x.lease_id, x.worker_id
  move()
  if lease_id then
    x.lost = { lease_id = lease_id, why = 'revoked' }
    Call.hint_item('cancel', { worker_id, x.id, lease_id })
  end
end

-- Cancel the execution, and tell the worker that holds its lease.
function Executions.stop(x, why, outcome, actor)
  Executions.revoking(x, function() Executions.cancel(x, why, outcome, actor) end)
end

-- If cancellation was requested, do the same. Return whether the execution ended.
function Executions.stop_if_asked(x, actor)
  if not Executions.canceling(x) then return false end
  Executions.revoking(x, function() Executions.cancel_if_asked(x, actor) end)
  return true
end

-- Fail the execution because its time is up, and tell the worker that holds its lease. category: of the failure.
function Executions.expire(x, reason, category)
  x.failure = Executions.failure(x, reason, category)
  Executions.revoking(x, function() States.transition(x, 'failed', { why = category, data = { category = category, reason = reason } }) end)
end

-- Retention is over: delete the execution from Valkey. Its audit events stay in their stream.
function Executions.retire(x)
  local id = x.id
  Payloads.release(x, 'input')
  Payloads.release(x, 'result')
  Records.unlink(Keys.of('h', id))
  Records.unlink(Keys.of('fr', id))
  Lanes.left(x.lane)
  Records.delete('x', id)
end
