-- Leases: grants, the beginning and end of a lease, failed attempts, lost and revoked leases.
--
-- Needs: Call, Executions, Limits, States, Workers.

local told, told_packed = {}, nil   -- the data that an event `started` told last, and packed

-- Remove the fields of an ended lease from the record. lease_epoch and attempt_index stay: they only grow.
function Leases.drop(x)
  Workers.hold(x.worker_id, -1)
  x.lease_id, x.lease_expires_at, x.lease_ttl_ms, x.worker_id = nil, nil, nil, nil
  x.attempt_expires_at = nil
  x.claimed, x.claimed_via = nil, nil
  x.cancel_at, x.stopping, x.stalled_at = nil, nil, nil
end

-- Grant a worker the right to claim a ready execution. It is out of its queue until x.grant_expires_at.
function Leases.grant(x, worker_id)
  x.grant_id = Call.secret_of(worker_id)
  x.grant_worker = worker_id
  x.grant_expires_at = Call.now + (Call.limits.grant_ttl_ms or 5000)
end

-- A grant was not claimed in time: end it, so that the execution is in its queue again, at its old place.
function Leases.ungrant(x)
  if x.slot then Limits.free(x, false) end
  x.past_grant = x.grant_id
  x.grant_id, x.grant_worker, x.grant_expires_at = nil, nil, nil
end

local function begin_attempt(x)
  x.started_at = x.started_at or Call.now
  if x.attempt_timeout_ms then x.attempt_expires_at = Call.now + x.attempt_timeout_ms end
end

-- Return the data of the event `started` of a ready execution, packed. In a batch it is mostly the same.
local function started_data(x)
  local worker_id, epoch, expires_at, attempt = x.worker_id, x.lease_epoch, x.lease_expires_at, x.attempt_index
  if worker_id ~= told.worker_id or expires_at ~= told.lease_expires_at or epoch ~= told.lease_epoch
    or attempt ~= told.attempt_index then
    told = { via = 'leased', worker_id = worker_id, lease_epoch = epoch, lease_expires_at = expires_at, attempt_index = attempt }
    told_packed = pack(told)
  end
  return told_packed
end

-- ready → leased; with `start` ready → running, which is one move and one event. A fresh execution begins a new
-- attempt; a resumed, reclaimed or released execution continues its attempt.
function Leases.take(x, worker_id, ttl_ms, start)
  local grant_id = x.grant_id
  x.lease_epoch = (x.lease_epoch or 0) + 1
  x.lease_id = Call.secret_of(worker_id)
  x.lease_ttl_ms = ttl_ms or 30000
  x.lease_expires_at = Call.now + x.lease_ttl_ms
  x.worker_id = worker_id
  Workers.hold(worker_id, 1)
  if x.slot then Limits.extend(x) end
  x.claimed, x.claimed_via = grant_id, x.via
  x.via, x.past_grant, x.lost = nil, nil, nil
  if x.fresh then
    x.fresh = nil
    x.resumed = nil
    x.attempt_index = (x.attempt_index or 0) + 1
    x.attempt_id = Call.unique()
  end
  local actor = 'worker:' .. worker_id
  if start then
    begin_attempt(x)
    States.transition(x, 'running', {
      event = 'started', actor = actor, data = started_data(x), brief = Executions.brief_started,
    })
  else
    States.transition(x, 'leased', { actor = actor, data = {
      worker_id = worker_id, lease_epoch = x.lease_epoch, lease_expires_at = x.lease_expires_at,
    } })
  end
end

-- leased or running → ready, as if it had never been leased: its handler never began, so no attempt and no place in a
-- quota is used. about: see States.transition.
function Leases.put_back(x, about)
  if Executions.cancel_if_asked(x, about.actor) then return end
  local via = x.claimed_via
  if x.slot then Limits.free(x, false) end
  States.transition(x, 'ready', about)
  x.via = via
end

-- leased → running.
function Leases.start(x)
  local actor = 'worker:' .. x.worker_id
  begin_attempt(x)
  States.transition(x, 'running', { event = 'started', actor = actor, data = Executions.attempt_data(x) })
end

-- Return the delay before the next attempt (ms). Jitter (0..1) randomly takes off up to that share of the delay
-- ("equal jitter", Brooker, AWS Architecture Blog, 2015).
local function backoff_ms(x)
  local b = x.backoff or {}
  local delay = b.delay_ms or 1000
  local max = b.max_ms or 300000
  if (b.kind or 'exponential') == 'exponential' then
    delay = delay * (b.factor or 2) ^ ((x.attempt_index or 1) - 1)
  end
  if delay > max then delay = max end
  return math.floor(delay * (1 - (b.jitter or 0) * Call.random))
end

-- Return whether an execution may be retried after a failure of this category.
local function may_retry(x, category, retryable)
  if not retryable or x.attempt_index >= (x.max_attempts or 1) then return false end
  if contains(x.fail_on, category) then return false end
  return not x.retry_on or contains(x.retry_on, category)
end

-- Fail the attempt: schedule a retry, or fail the execution for good. delay_ms overrides the backoff. undone: see
-- Executions.conclude. Return the reply of lease.fail.
function Leases.fail(x, reason, category, retryable, delay_ms, actor, undone)
  x.failure = Executions.failure(x, reason, category)
  local data = { category = category, reason = reason, attempt_index = x.attempt_index }
  if may_retry(x, category, retryable) then
    local ready_at = Call.now + (delay_ms or backoff_ms(x))
    data.ready_at = ready_at
    States.transition(x, 'retry_wait', { why = category, data = data, actor = actor })
    x.wake_at = ready_at
    x.fresh = true
    return { outcome = 'retry_scheduled', ready_at = ready_at, next_attempt = x.attempt_index + 1 }
  end
  Executions.conclude(x, 'failed', { why = category, data = data, actor = actor }, undone)
  return { outcome = 'terminal_failed' }
end

-- The worker lost its lease (why: expired or revoked). Put the execution back into its queue; fail it if it has already
-- been reclaimed `max_reclaims` times.
function Leases.lose(x, why, actor)
  local lost = { lease_id = x.lease_id, why = why }
  local data = { worker_id = x.worker_id, lease_epoch = x.lease_epoch, loop_blocked_ms = x.stalled_at and Call.now - x.stalled_at }
  if Executions.cancel_if_asked(x, actor) then
    -- The execution has ended as canceled: nothing to reclaim.
  elseif (x.reclaims or 0) >= Executions.max_reclaims(x) then
    -- A lease that was never started fails too, but only a running execution can move to failed.
    if x.state == 'leased' then Leases.start(x) end
    x.failure = Executions.failure(x, 'the lease was lost ' .. (x.reclaims or 0) + 1 .. ' times', 'lease_expired')
    data.reason = x.failure.reason
    Executions.conclude(x, 'failed', { why = 'lease_expired', data = data, actor = actor })
  else
    x.reclaims = (x.reclaims or 0) + 1
    x.via = 'reclaim'
    States.transition(x, 'ready', { event = 'reclaimed', why = 'lease_' .. why, data = data, actor = actor })
  end
  x.lost = lost
end

-- An operator revokes the lease: put the execution back into its queue without counting a reclaim, and tell the worker.
function Leases.revoke(x, reason, actor)
  local data = { worker_id = x.worker_id, lease_epoch = x.lease_epoch, reason = reason }
  Executions.revoking(x, function()
    if Executions.cancel_if_asked(x, actor) then return end
    x.via = 'reclaim'
    States.transition(x, 'ready', { event = 'reclaimed', why = 'lease_revoked', data = data, actor = actor })
  end)
end
