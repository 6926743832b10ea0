-- The lease-keeper's ops: leases, attempts, outcomes.
local ops = Ops.lease_keeper

-- claim: a grant becomes a lease. args: execution_id, grant_id, worker_id, lease_ttl_ms, start, verb (claim |
-- claim_resumed | reclaim). reply: a task. errors: see Leases.claim. events: leased (and started).
function ops.claim(a) return Leases.claim(a) end

-- start: leased → running. args: fence. reply: {state}. errors: fence errors. events: started.
function ops.start(a)
  local x = Fences.hold(a)
  if x.state == 'leased' then Leases.start(x) end
  return { state = x.state }
end

-- renew: the lease lasts longer. args: fence, lease_ttl_ms. reply: {expires_at, cancel_requested}.
-- errors: fence errors.
function ops.renew(a)
  local x = Fences.hold(a)
  if a.lease_ttl_ms then x.lease_ttl_ms = a.lease_ttl_ms end
  x.lease_expires_at = Call.now + x.lease_ttl_ms
  if x.slot then Limits.extend(x) end
  return { expires_at = x.lease_expires_at, cancel_requested = Executions.canceling(x) }
end

-- Cancellation really cancels: an outcome that comes after it was asked for ends the execution as canceled.
local function canceled(x, actor)
  Executions.cancel(x, x.cancel_reason or 'canceled', 'canceled', actor)
end

-- complete: the work is done. args: fence, result, children ([{execution_id, …spec}], made with it).
-- reply: {state, children (their ids, if any)}. errors: fence errors, illegal_transition, invalid_request.
-- events: completed (or canceled: then no child is made), whatever that sets free in a flow; created for each child.
-- A draining lane takes children all the same: they belong to what it is to finish.
function ops.complete(a)
  local x, repeated = Fences.hold(a, 'complete')
  if not x then return repeated end
  States.check(x, 'completed')
  local specs = a.children
  if specs then
    for i, spec in ipairs(specs) do Executions.check_spec(spec, 'children[' .. i - 1 .. '].') end
  end
  local actor = 'worker:' .. x.worker_id
  local reply = {}
  if Executions.canceling(x) then
    canceled(x, actor)
  else
    Payloads.hold(x, 'result', a.result)
    States.transition(x, 'completed', { actor = actor, data = { attempt_index = x.attempt_index } })
    if specs then reply.children = Children.create(x, specs, actor) end
  end
  reply.state = x.state
  return Fences.consume(x, a, 'complete', reply)
end

-- namespace: which one an execution's children will have. args: execution_id. reply: {namespace}.
-- errors: execution_not_found.
function ops.namespace(a) return { namespace = Executions.read(a.execution_id).namespace or 'default' } end

-- quota_get: whether there is such a quota, for those who want to make children under it. args: quota_id. reply: the
-- quota. errors: quota_not_found.
function ops.quota_get(a) return Quotas.view(Quotas.read(a.quota_id)) end

-- fail: the attempt failed. args: fence, reason, category, retryable, retry_after_ms.
-- reply: {outcome, ready_at, next_attempt}. errors: fence errors, illegal_transition. events: retry_wait or failed.
function ops.fail(a)
  local x, repeated = Fences.hold(a, 'fail')
  if not x then return repeated end
  States.check(x, 'failed')
  local actor = 'worker:' .. x.worker_id
  local reply
  if Executions.canceling(x) then
    canceled(x, actor)
    reply = { outcome = 'terminal_failed' }
  else
    reply = Leases.fail(x, a.reason, a.category or 'error', a.retryable ~= false, a.retry_after_ms, actor)
  end
  return Fences.consume(x, a, 'fail', reply)
end

-- cancel: the worker gives the work up, for good. args: fence, reason. reply: {state}. errors: fence errors.
-- events: canceled.
function ops.cancel(a)
  local x, repeated = Fences.hold(a, 'cancel')
  if not x then return repeated end
  local reason = a.reason or x.cancel_reason or 'canceled'
  Executions.cancel(x, reason, 'canceled', 'worker:' .. x.worker_id)
  return Fences.consume(x, a, 'cancel', { state = x.state })
end

-- delay: running → suspended(delay) until a time, then ready; the same attempt goes on. A time that has come already
-- resumes it at once: clocks differ, that is no mistake of the caller's. args: fence, until.
-- reply: {state}. errors: fence errors, illegal_transition. events: suspended, resumed (or canceled).
function ops.delay(a)
  local x, repeated = Fences.hold(a, 'delay')
  if not x then return repeated end
  States.check(x, 'suspended')
  local actor, at = 'worker:' .. x.worker_id, a['until']
  if Executions.canceling(x) then
    canceled(x, actor)
  else
    States.transition(x, 'suspended', { reason = 'delay', actor = actor, data = { until_at = at } })
    if at > Call.now then
      x.wake_at, x.wake_by = at, 'lease_keeper'
    else
      Executions.resume(x, 'delay', 'lease-keeper')
    end
  end
  return Fences.consume(x, a, 'delay', { state = x.state })
end

-- await_children: running → suspended(children) until every child is terminal, then ready; the same attempt goes on.
-- If all are, or there is none, it resumes at once: a worker always sees the same. args: fence. reply: {state}.
-- errors: fence errors, illegal_transition. events: suspended, resumed (or canceled).
function ops.await_children(a)
  local x, repeated = Fences.hold(a, 'await_children')
  if not x then return repeated end
  States.check(x, 'suspended')
  local actor = 'worker:' .. x.worker_id
  if Executions.canceling(x) then
    canceled(x, actor)
  else
    local open = x.children_open or 0
    States.transition(x, 'suspended', { reason = 'children', actor = actor, data = { children_open = open } })
    if open == 0 then Executions.resume(x, 'children', 'lease-keeper') end
  end
  return Fences.consume(x, a, 'await_children', { state = x.state })
end

-- revoke: an operator takes the lease away: ready again; neither an attempt nor a reclaim is counted. One that was
-- asked to stop is canceled. args: execution_id, reason. reply: {state}.
-- errors: execution_not_found, no_active_lease {state}. events: reclaimed (or canceled).
function ops.revoke(a)
  local x = Executions.edit(a.execution_id)
  if not x.lease_id then Errors.raise('no_active_lease', { state = x.state }) end
  Leases.revoke(x, a.reason, 'operator')
  return { state = x.state }
end

-- release: a lease that has not begun goes back, no attempt used. args: fence. reply: {state}.
-- errors: fence errors, illegal_transition. events: released.
function ops.release(a)
  local x, repeated = Fences.hold(a, 'release')
  if not x then return repeated end
  if x.state ~= 'leased' then Errors.raise('illegal_transition', { from = x.state, to = 'ready' }) end
  local actor = 'worker:' .. x.worker_id
  if Executions.canceling(x) then
    canceled(x, actor)
  else
    local via = x.claimed_via
    States.transition(x, 'ready', { event = 'released', actor = actor })
    x.via = via
  end
  return Fences.consume(x, a, 'release', { state = x.state })
end

-- progress: how far it is. args: fence, pct, message. reply: {progress}. errors: fence errors. events: progress, at most one in
-- so many ms: the last of them is told when that time is over, or the execution moves on.
function ops.progress(a)
  local x = Fences.hold(a)
  x.progress = { pct = a.pct, message = a.message or '', at = Call.now }
  x.updated_at = Call.now
  local actor, told_at = 'worker:' .. x.worker_id, x.progress_told_at
  local may_tell_at = told_at and told_at + (Call.limits.progress_events_ms or 0) or 0
  if may_tell_at > Call.now then
    x.progress_untold = { actor = actor, at = may_tell_at }
  else
    Executions.tell_progress(x, actor)
  end
  return { progress = x.progress }
end

local function due_execution(x)
  local now = Call.now
  if x.progress_untold and x.progress_untold.at <= now then Executions.tell_progress(x, x.progress_untold.actor) end
  if x.state == 'retry_wait' then
    if x.wake_at <= now then States.transition(x, 'ready', { actor = 'lease-keeper' }) end
  elseif x.state == 'suspended' then
    if x.reason == 'delay' and x.wake_at and x.wake_at <= now then Executions.resume(x, 'delay', 'lease-keeper') end
  elseif x.lease_id and x.lease_expires_at <= now then
    Leases.lose(x, 'expired', 'lease-keeper')
  elseif x.attempt_expires_at and x.attempt_expires_at <= now and Executions.canceling(x) then
    Executions.stop(x, x.cancel_reason or 'canceled', 'canceled', 'lease-keeper')
  elseif x.attempt_expires_at and x.attempt_expires_at <= now then
    local lost = { lease_id = x.lease_id, why = 'revoked' }
    Call.hint_item('cancel', { x.worker_id, x.id, x.lease_id })
    Leases.fail(x, 'the attempt took longer than ' .. x.attempt_timeout_ms .. ' ms', 'timeout', true, nil, 'lease-keeper')
    x.lost = lost
  end
end

-- due: leases run out, backoffs and delays end, attempts time out, budgets are reset,
-- workers fall silent. args: limit. See Due.run.
function ops.due(a) return Due.run('lease_keeper', { x = due_execution, budget = Budgets.due, worker = Workers.due }, a.limit) end

Call.serve('lease_keeper')
