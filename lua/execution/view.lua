-- The public view of an execution.
--
-- Needs: Blocks, Lanes, Payloads.

-- Return the record as a reply, with its payloads.
function Executions.view(x)
  local id = x.id
  local caps
  if x.caps then
    caps = {}
    for name in string.gmatch(x.caps, '[^,]+') do caps[#caps + 1] = name end
  end
  local view = {
    execution_id = id, namespace = x.namespace or 'default', kind = x.kind, lane = x.lane, priority = x.priority or 0,
    state = x.state, reason = x.reason, outcome = x.outcome, failure = x.failure,
    attempt_index = x.attempt_index or 0, attempt_id = x.attempt_id, max_attempts = x.max_attempts or 1, retry_on = x.retry_on, fail_on = x.fail_on,
    lease_epoch = x.lease_epoch or 0, reclaims = x.reclaims or 0, max_reclaims = Executions.max_reclaims(x),
    flow_id = x.flow_id, parent_id = x.parent_id, replay_of = x.replay_of, tags = x.tags, capabilities = caps, progress = x.progress,
    cancel_requested = x.cancel_requested or false, created_at = x.created_at, ready_at = x.ready_at,
    started_at = x.started_at, updated_at = x.updated_at, finished_at = x.finished_at, deadline_at = x.deadline_at,
    version = x.version, forked_from = x.forked_from, continues = x.continues, continued_by = x.continued_by,
    traceparent = x.traceparent, seq = x.seq, input = Payloads.of(x, 'input'),
  }
  if x.journal then view.journal = { entries = x.journal.n, bytes = x.journal.bytes } end
  if x.state == 'ready' then
    local block = x.limit and Blocks.read(x.limit)
    view.reason = Lanes.paused(x.lane) and 'lane_paused' or block and block.reason or nil
  end
  if x.state == 'completed' then view.result = Payloads.of(x, 'result') end
  if x.lease_id then
    -- Its id is a secret of its holder.
    view.lease = { lease_epoch = x.lease_epoch, worker_id = x.worker_id, expires_at = x.lease_expires_at }
  end
  return view
end

-- Return the record without its payloads, for a list of many.
function Executions.row(x)
  return {
    execution_id = x.id, namespace = x.namespace or 'default', kind = x.kind, lane = x.lane, priority = x.priority or 0,
    state = x.state, reason = x.reason, outcome = x.outcome, failure = x.failure, attempt_index = x.attempt_index,
    max_attempts = x.max_attempts, reclaims = x.reclaims, worker_id = x.lease_id and x.worker_id, flow_id = x.flow_id,
    parent_id = x.parent_id, replay_of = x.replay_of, tags = x.tags, progress = x.progress,
    cancel_requested = x.cancel_requested, created_at = x.created_at, ready_at = x.ready_at, started_at = x.started_at,
    updated_at = x.updated_at, finished_at = x.finished_at,
  }
end
