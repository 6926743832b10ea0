-- Executions: the record, where it stands (placement), how one is made, read and ended.
--
-- A record holds only what differs from the default. Fields beside those of `execution.get`: caps (required
-- capabilities, sorted, comma-joined), fresh (the next claim begins a new attempt), via (which verb claims it:
-- nil, 'resumed' or 'reclaim'), wake_at (when a delay, a backoff or run_at ends), grant_*, lease_*, last (the outcome
-- that consumed the last lease, for repeats), lost (the lease that was taken away), member (key in its flow),
-- waited (somebody waits for its end), children_open (lib/children.lua), progress_told_at (when the last event about its
-- progress was), progress_untold {actor, at} (what has come since waits for that time).

local DEFAULT_MAX_RECLAIMS = 10
-- Ends that one hint tells of in full: a hint has to stay well within a NATS message.
local ANNOUNCED = 64

local function earliest(a, b)
  if not a then return b end
  if not b or a < b then return a end
  return b
end

Records.define('x', function(x)
  local placement = { [Lists.all_key()] = 0, [Lists.state_key(x.lane, x.state)] = 0 }
  if x.tags then Lists.place_tags(x.tags, placement) end
  if States.TERMINAL[x.state] then
    -- A flow's members leave with their flow.
    if not x.flow_id then placement[Due.key('scheduler', 'x')] = x.finished_at + (x.retention_ms or Call.retention_ms()) end
    return placement
  end
  if x.state == 'ready' and not x.grant_id then placement[Queues.key(x)] = Queues.score(x) end
  local scheduler = earliest(x.deadline_at, x.grant_expires_at)
  if x.state == 'scheduled' then scheduler = earliest(scheduler, x.wake_at) end
  if scheduler then placement[Due.key('scheduler', 'x')] = scheduler end
  if x.state == 'retry_wait' then
    placement[Due.key('lease_keeper', 'x')] = x.wake_at
  elseif x.lease_id then
    local lease_keeper = earliest(x.lease_expires_at, x.attempt_expires_at)
    placement[Due.key('lease_keeper', 'x')] = earliest(lease_keeper, x.progress_untold and x.progress_untold.at)
  elseif x.state == 'suspended' and x.wake_at then
    placement[Due.key(x.wake_by or 'signal_router', 'x')] = x.wake_at
  end
  -- The grace that a canceled worker has to stop by itself.
  if x.cancel_at then placement[Due.key('cancel_reconciler', 'x')] = x.cancel_at end
  return placement
end)

-- Errors: execution_not_found.
function Executions.read(id)
  local x = Records.read('x', id)
  if not x then Errors.raise('execution_not_found', { execution_id = id }) end
  return x
end

-- Errors: execution_not_found.
function Executions.edit(id)
  local x = Records.edit('x', id)
  if not x then Errors.raise('execution_not_found', { execution_id = id }) end
  return x
end

function Executions.max_reclaims(x) return x.max_reclaims or DEFAULT_MAX_RECLAIMS end

-- An event of this execution, into the outbox and its history.
function Executions.tell(x, name, about)
  x.log = (x.log or '') .. Events.emit('execution', x, name, about)
end

-- The event about what its worker last said of its progress.
function Executions.tell_progress(x, actor)
  x.progress_told_at, x.progress_untold = Call.now, nil
  Executions.tell(x, 'progress', { actor = actor, data = { pct = x.progress.pct, message = x.progress.message } })
end

-- Refuses a spec whose times make no sense now. within: where it stands in the request ('children[0].').
-- Errors: invalid_request.
function Executions.check_spec(spec, within)
  within = within or ''
  if spec.deadline_at and spec.deadline_at <= Call.now then Errors.invalid(within .. 'deadline_at', 'is in the past') end
  if spec.deadline_at and spec.run_at and spec.run_at >= spec.deadline_at then
    Errors.invalid(within .. 'run_at', 'is not before deadline_at')
  end
end

-- Makes an execution. spec: fields of execution.create, checked; extra: {flow_id, member, parent_id, replay_of,
-- namespace, held (true: waits for its dependencies), actor, schedule_id and due_at (for the event)}. The first event tells its first state.
function Executions.create(id, spec, extra)
  local x = {
    kind = spec.kind, lane = spec.lane or 'default', namespace = extra.namespace, priority = spec.priority,
    max_attempts = spec.max_attempts, backoff = spec.backoff, retry_on = spec.retry_on, fail_on = spec.fail_on,
    attempt_timeout_ms = spec.attempt_timeout_ms, deadline_at = spec.deadline_at, tags = spec.tags,
    fairness_key = spec.fairness_key, max_reclaims = spec.max_reclaims, retention_ms = spec.retention_ms,
    limit = spec.limit, quota_id = spec.quota_id, concurrency_key = spec.concurrency_key,
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
  if x.parent_id then Children.born(x.parent_id) end
  Payloads.hold(x, 'input', spec.input)
  Executions.tell(x, 'created', { to = x.state, reason = x.reason, actor = extra.actor, data = {
    kind = x.kind, lane = x.lane, parent_id = x.parent_id, replay_of = x.replay_of,
    schedule_id = extra.schedule_id, due_at = extra.due_at,
  } })
  Lists.lane_used(x.lane)
  return x
end

-- A scheduled execution whose dependencies are met: ready, or waiting for its time.
function Executions.release(x, actor)
  if x.wake_at and x.wake_at > Call.now then
    x.reason = 'time'
    x.updated_at = Call.now
    Executions.tell(x, 'released', { reason = 'time', actor = actor })
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

-- A new execution's spec, as another one had it: all but its times, its flow and its parent.
function Executions.spec_of(x)
  local caps = {}
  for name in string.gmatch(x.caps or '', '[^,]+') do caps[#caps + 1] = name end
  return {
    kind = x.kind, lane = x.lane, priority = x.priority, max_attempts = x.max_attempts, backoff = x.backoff,
    retry_on = x.retry_on, fail_on = x.fail_on, attempt_timeout_ms = x.attempt_timeout_ms, tags = x.tags,
    fairness_key = x.fairness_key, max_reclaims = x.max_reclaims, retention_ms = x.retention_ms, limit = x.limit,
    quota_id = x.quota_id, concurrency_key = x.concurrency_key, capabilities = caps,
  }
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

-- The same, and a worker that holds it is told that its lease is gone.
function Executions.stop(x, why, outcome, actor)
  local lease_id, worker_id = x.lease_id, x.worker_id
  Executions.cancel(x, why, outcome, actor)
  if lease_id then
    x.lost = { lease_id = lease_id, why = 'revoked' }
    Call.hint_item('cancel', { worker_id, x.id, lease_id })
  end
end

-- Fails for good because its time is up; a worker that holds it is told. category: of the failure.
function Executions.expire(x, category)
  local lease_id, worker_id = x.lease_id, x.worker_id
  States.transition(x, 'failed', { why = category, data = { category = category } })
  if lease_id then
    x.lost = { lease_id = lease_id, why = 'revoked' }
    Call.hint_item('cancel', { worker_id, x.id, lease_id })
  end
end

-- Retention is over: the execution leaves Valkey; its audit events stay.
function Executions.retire(x)
  local id = x.id
  Payloads.release(x, 'input')
  Payloads.release(x, 'result')
  Records.unlink(Call.root .. ':h:' .. id)
  Records.unlink(Call.root .. ':fr:' .. id)
  Lists.left(x.lane)
  Records.delete('x', id)
end

-- What the `done` hint tells of those that ended: the view that they are waited for, or, of large ones, the id.
function Executions.announce(ended)
  for i, x in ipairs(ended) do
    local small = i <= ANNOUNCED and x.input ~= true and x.result ~= true
    ended[i] = small and Executions.view(x) or x.id
  end
end

-- The record as a reply; payloads included.
function Executions.view(x)
  local id = x.id
  local view = {
    execution_id = id, namespace = x.namespace or 'default', kind = x.kind, lane = x.lane, priority = x.priority or 0,
    state = x.state, reason = x.reason, outcome = x.outcome, failure = x.failure,
    attempt_index = x.attempt_index or 0, attempt_id = x.attempt_id, max_attempts = x.max_attempts or 1,
    reclaims = x.reclaims or 0, max_reclaims = Executions.max_reclaims(x), flow_id = x.flow_id, parent_id = x.parent_id,
    replay_of = x.replay_of, tags = x.tags, caps = x.caps, progress = x.progress,
    cancel_requested = x.cancel_requested or false, created_at = x.created_at, ready_at = x.ready_at,
    started_at = x.started_at, updated_at = x.updated_at, finished_at = x.finished_at, deadline_at = x.deadline_at,
    seq = x.seq, input = Payloads.of(x, 'input'),
  }
  if x.state == 'ready' then
    local block = x.limit and Blocks.read(x.limit)
    view.reason = Lists.lane_paused(x.lane) and 'lane_paused' or block and block.reason or nil
  end
  if x.state == 'completed' then view.result = Payloads.of(x, 'result') end
  if x.lease_id then
    view.lease = {
      lease_id = x.lease_id, lease_epoch = x.lease_epoch, worker_id = x.worker_id, expires_at = x.lease_expires_at,
    }
  end
  return view
end
