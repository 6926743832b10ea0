-- Claims: turn a grant into a lease, and give its worker a task.
--
-- Needs: Call, Errors, Executions, Graph, Journal, Lanes, Payloads, Records.

-- Return how an execution ends whose compensations alone are to be run, or nil.
local function ending_of(x)
  local ending = x.ending
  if not ending then return nil end
  local data = ending.about.data or {}
  return { category = data.category or 'canceled', reason = data.reason or ending.about.why }
end

-- Return the task that a worker gets for the execution that it has just leased.
function Leases.task(x)
  local task = {
    execution_id = x.id, kind = x.kind, lane = x.lane, input = Payloads.of(x, 'input'), attempt_index = x.attempt_index,
    attempt_id = x.attempt_id, lease_id = x.lease_id, lease_epoch = x.lease_epoch, lease_expires_at = x.lease_expires_at,
    resumed = x.resumed and true or false, tags = x.tags, deadline_at = x.deadline_at,
    traceparent = x.traceparent, ending = ending_of(x), riding = Journal.riding(x),
  }
  if x.flow_id then task.edge_inputs = Graph.inputs(x) end
  return task
end

-- Lease a new execution to a worker that waits for it, before it is in any queue. taker: {worker_id, lease_ttl_ms, start}. Return the
-- task, or nil if the execution has to wait: for its time, for others, for its lane, or for room in a limit.
function Leases.eager(x, taker)
  if x.state ~= 'ready' or x.limit or x.flow_id or Lanes.paused(x.lane) then return nil end
  Leases.take(x, taker.worker_id, taker.lease_ttl_ms, taker.start)
  return Leases.task(x)
end

-- Refuse a claim by another verb than the grant requires (x.via).
local function check_verb(x, verb)
  if verb == 'claim' and x.via == 'resumed' then Errors.raise('use_claim_resumed_execution') end
  if verb == 'claim_resumed' and x.via ~= 'resumed' then Errors.raise('not_a_resumed_execution') end
  if verb == 'reclaim' and x.via ~= 'reclaim' then Errors.raise('execution_not_reclaimable', { state = x.state }) end
end

-- Turn a grant into a lease and return the task. a: {execution_id, grant_id, worker_id, lease_ttl_ms, start, verb
-- (claim | claim_resumed | reclaim | any)}. Errors: execution_not_found, execution_not_leaseable, lease_conflict,
-- invalid_claim_grant, claim_grant_expired, use_claim_resumed_execution, not_a_resumed_execution,
-- execution_not_reclaimable, execution_not_in_eligible_set.
function Leases.claim(a)
  local x = Executions.edit(a.execution_id)
  if x.lease_id then
    -- The worker repeats its claim, because the first reply was lost.
    if x.claimed == a.grant_id and x.worker_id == a.worker_id then return Leases.task(x) end
    Errors.raise('lease_conflict', { worker_id = x.worker_id, expires_at = x.lease_expires_at })
  end
  if x.state ~= 'ready' then
    if a.verb == 'reclaim' then Errors.raise('execution_not_reclaimable', { state = x.state }) end
    Errors.raise('execution_not_leaseable', { state = x.state })
  end
  if not x.grant_id or x.grant_id ~= a.grant_id or x.grant_worker ~= a.worker_id then
    if x.past_grant == a.grant_id then Errors.raise('claim_grant_expired') end
    Errors.raise('invalid_claim_grant')
  end
  if x.grant_expires_at <= Call.now then Errors.raise('claim_grant_expired', { expired_at = x.grant_expires_at }) end
  check_verb(x, a.verb)
  local f = x.flow_id and not x.ending and Records.read('f', x.flow_id)
  if f and f.status == 'cancelled' then Errors.raise('execution_not_leaseable', { state = x.state, flow_status = f.status }) end
  if f and f.status == 'waiting' then Errors.raise('execution_not_in_eligible_set', { reason = 'flow_waiting' }) end
  if Lanes.paused(x.lane) then Errors.raise('execution_not_in_eligible_set', { reason = 'lane_paused' }) end
  Leases.take(x, a.worker_id, a.lease_ttl_ms, a.start)
  return Leases.task(x)
end
