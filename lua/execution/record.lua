-- Executions: the record, and where it stands (placement).
--
-- A record holds only what differs from the default. Fields beside those of `execution.get`: caps (required
-- capabilities, sorted, comma-joined), fresh (the next claim begins a new attempt), via (which verb claims it:
-- nil, 'resumed' or 'reclaim'), wake_at (when a delay, a backoff or run_at ends), grant_*, lease_*, last (the outcome
-- that consumed the last lease, for repeats), lost (the lease that was taken away), member (key in its flow),
-- parent_close, closing {at, after}: its children are still to be stopped (execution/children.lua), unique_key, followed_by
-- (execution/unique.lua), waited (somebody waits for its end), children_open (execution/children.lua), progress_told_at (when the last event about its
-- progress was), aside (its flow waits, flow/waits.lua), progress_untold {actor, at} (what has come since waits for that time).
--
-- Needs: Call, Due, Errors, Events, Keys, Queues, Records.

local DEFAULT_MAX_RECLAIMS = 10
Executions.TERMINAL = { completed = true, failed = true, canceled = true }

local function earliest(a, b)
  if not a then return b end
  if not b or a < b then return a end
  return b
end

Records.define('x', function(x)
  local placement = { [Keys.executions()] = 0, [Keys.state(x.lane, x.state)] = 0 }
  for name, value in pairs(x.tags or {}) do
    placement[Keys.tag(name)] = 0
    placement[Keys.tag(name .. '=' .. value)] = 0
  end
  if Executions.TERMINAL[x.state] then
    -- A flow's members leave with their flow.
    if not x.flow_id then placement[Due.key('scheduler', 'x')] = x.finished_at + (x.retention_ms or Call.retention_ms()) end
    if x.closing then placement[Due.key('cancel_reconciler', 'x')] = x.closing.at end
    return placement
  end
  if x.parent_id and x.parent_close ~= 'let_run' then placement[Keys.children(x.parent_id)] = 0 end
  if x.state == 'ready' and not x.grant_id and not x.aside then placement[Queues.key(x)] = Queues.score(x) end
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

-- Refuses a spec whose times make no sense now. within: where it stands in the request ('children[0].').
-- Errors: invalid_request.
function Executions.check_spec(spec, within)
  within = within or ''
  if spec.deadline_at and spec.deadline_at <= Call.now then Errors.invalid(within .. 'deadline_at', 'is in the past') end
  if spec.deadline_at and spec.run_at and spec.run_at >= spec.deadline_at then
    Errors.invalid(within .. 'run_at', 'is not before deadline_at')
  end
end

-- What a failed attempt, or an execution that fails without one, says of why.
function Executions.failure(x, reason, category)
  return { reason = reason, category = category, attempt = x.attempt_index or 0 }
end
