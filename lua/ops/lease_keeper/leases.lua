-- The lease-keeper's ops that begin, renew, revoke or release a lease.
--
-- Needs: Call, Errors, Executions, Fences, Leases, Limits.
local ops = Ops.lease_keeper

-- claim: turn a grant into a lease. args: execution_id, grant_id, worker_id, lease_ttl_ms, start (true: the attempt
-- starts at once), verb (claim | claim_resumed | reclaim). reply: a task. errors: see Leases.claim.
-- events: leased (with `start`: started).
function ops.claim(a) return Leases.claim(a) end

-- start: leased → running. args: fence. reply: {state}. errors: fence errors. events: started.
function ops.start(a)
  local x = Fences.hold(a)
  if x.state == 'leased' then Leases.start(x) end
  return { state = x.state }
end

-- renew: extend the lease from now. args: fence, lease_ttl_ms (nil: as before). reply: {expires_at, cancel_requested}.
-- errors: fence errors.
function ops.renew(a)
  local x = Fences.hold(a)
  if a.lease_ttl_ms then x.lease_ttl_ms = a.lease_ttl_ms end
  x.lease_expires_at = Call.now + x.lease_ttl_ms
  x.stalled_at = nil
  if x.slot then Limits.extend(x) end
  return { expires_at = x.lease_expires_at, cancel_requested = Executions.canceling(x) }
end

-- stalled: the worker's event loop has not turned for blocked_ms, so that nobody renews the lease; kept for the event that
-- tells of its loss. args: fence, blocked_ms. reply: {state}. errors: fence errors.
function ops.stalled(a)
  local x = Fences.hold(a)
  x.stalled_at = Call.now - a.blocked_ms
  return { state = x.state }
end

-- revoke: an operator takes the lease away. The execution becomes ready again (or canceled, if cancellation was
-- requested); neither an attempt nor a reclaim is counted. args: execution_id, reason. reply: {state}.
-- errors: execution_not_found, no_active_lease {state}. events: reclaimed (or canceled).
function ops.revoke(a)
  local x = Executions.edit(a.execution_id)
  if not x.lease_id then Errors.raise('no_active_lease', { state = x.state }) end
  Leases.revoke(x, a.reason, 'operator')
  return { state = x.state }
end

-- release: give back a lease whose attempt has not started; no attempt is used. args: fence, unbegun (true: what was leased
-- and begun in one step goes back too, as its handler has not begun). reply: {state}.
-- errors: fence errors, illegal_transition. events: released.
function ops.release(a)
  local x, repeated = Fences.hold(a, 'release')
  if not x then return repeated end
  if x.state == 'running' and not a.unbegun then Errors.raise('illegal_transition', { from = 'running', to = 'ready' }) end
  Leases.put_back(x, { event = 'released', actor = 'worker:' .. x.worker_id })
  return Fences.consume(x, a, 'release', { state = x.state })
end

-- progress: record the worker's progress. args: fence, pct, message. reply: {progress}. errors: fence errors.
-- events: progress, at most one per `progress_events_ms` (a setting of the call): the latest report in between is told
-- when that time is over, or when the execution changes its state.
function ops.progress(a)
  local x = Fences.hold(a)
  x.progress = { pct = a.pct, message = a.message, at = Call.now }
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
