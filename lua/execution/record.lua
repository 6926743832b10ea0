-- Executions: the record and its placement.
--
-- A record holds only fields that differ from the default. Fields beside those of `execution.get`:
-- caps (required capabilities, sorted, comma-joined), fresh (the next claim begins a new attempt), via (the verb that
-- must claim it: nil, 'resumed' or 'reclaim'), wake_at (when a delay, a backoff or run_at ends), grant_*, lease_*, last
-- (the verb that consumed the last lease, and its reply, for repeats), lost (the lease that was taken away), member
-- (its key in its flow), parent_close, children_open, closing {at, after} (execution/children.lua), unique_key,
-- follows, followed_by (execution/unique.lua), progress_told_at (time of the last progress event), progress_untold
-- {actor, at} (later progress, whose event is due at `at`), aside (its flow waits: flow/waits.lua), journal, version, pinned
-- (execution/journal.lua), ending (execution/endings.lua), park, hold, woken, parent_entry (journal/waits.lua), stalled_at
-- (since when its worker's event loop has been blocked, as the worker told), bulks (schedule/bulks.lua).
--
-- Needs: Call, Due, Errors, Events, Kept, Keys, Notes, Places, Queues, Records, Undo.

local DEFAULT_MAX_RECLAIMS = 10
Executions.TERMINAL = { completed = true, failed = true, canceled = true }

local all, leases_due, ends_due   -- the index of all, the due sets of leases and of ends
local lane_of, indexes            -- a lane, and its keys by state

Kept.on_root(function()
  all, leases_due, ends_due = Keys.executions(), Due.key('lease_keeper', 'x'), Due.key('scheduler', 'x')
  lane_of = nil
end)

-- Return the places of a plain execution (see Places.define), or nil. A field that puts an execution into a further set
-- must be named in the first line, beside its rule in the placement below.
local function plain(x)
  if x.tags or x.parent_id or x.flow_id or x.deadline_at or x.grant_id or x.aside or x.cancel_at or x.closing or x.version or x.failure then
    return nil
  end
  local state, lane, zset, score = x.state, x.lane, nil, nil
  if state == 'ready' then
    zset, score = Queues.key(x), Queues.score(x)
  elseif x.lease_id then
    if x.attempt_expires_at or x.progress_untold then return nil end
    zset, score = leases_due, x.lease_expires_at
  elseif Executions.TERMINAL[state] then
    zset, score = ends_due, x.finished_at + (x.retention_ms or Call.retention_ms())
  else
    return nil
  end
  if lane ~= lane_of then lane_of, indexes = lane, Keys.states(lane) end
  return all, indexes[state] or Keys.state(lane, state), zset, score
end

local function earliest(a, b)
  if not a then return b end
  if not b or a < b then return a end
  return b
end

Places.define('x', function(x)
  local placement = { [Keys.executions()] = 0, [Keys.state(x.lane, x.state)] = 0 }
  for name, value in pairs(x.tags or {}) do
    placement[Keys.tag(name)] = 0
    placement[Keys.tag(name .. '=' .. value)] = 0
  end
  if x.failure then placement[Keys.failures(x.failure.category)] = 0 end
  if x.parent_id then placement[Keys.parent(x.parent_id)] = 0 end
  if Executions.TERMINAL[x.state] then
    -- Members of a flow have no retention of their own: they retire with their flow.
    if not x.flow_id then placement[Due.key('scheduler', 'x')] = x.finished_at + (x.retention_ms or Call.retention_ms()) end
    if x.closing then placement[Due.key('cancel_reconciler', 'x')] = x.closing.at end
    return placement
  end
  if x.version then placement[Keys.version(x.kind, x.version)] = 0 end
  if x.parent_id and x.parent_close ~= 'let_run' then placement[Keys.children(x.parent_id)] = 0 end
  if x.state == 'ready' and not x.grant_id and not x.aside then placement[Queues.key(x)] = Queues.score(x) end
  local scheduler = earliest(not x.ending and x.deadline_at or nil, x.grant_expires_at)
  if x.state == 'scheduled' then scheduler = earliest(scheduler, x.wake_at) end
  if scheduler then placement[Due.key('scheduler', 'x')] = scheduler end
  if x.state == 'retry_wait' then
    placement[Due.key('lease_keeper', 'x')] = x.wake_at
  elseif x.lease_id then
    local lease_keeper = earliest(x.lease_expires_at, x.attempt_expires_at)
    placement[Due.key('lease_keeper', 'x')] = earliest(lease_keeper, x.progress_untold and x.progress_untold.at)
  elseif x.state == 'suspended' and x.wake_at then
    placement[Due.key(x.wake_by or x.park and 'lease_keeper' or 'signal_router', 'x')] = x.wake_at
  end
  -- End of the grace in which a worker may stop by itself after a cancel request.
  if x.cancel_at then placement[Due.key('cancel_reconciler', 'x')] = x.cancel_at end
  return placement
end, plain)

local ATTEMPTS = 16   -- for how many attempts the data is kept, packed, between calls
local attempts = {}

local function pack_attempt(n)
  local packed = pack({ attempt_index = n })
  if n <= ATTEMPTS then attempts[n] = packed end
  return packed
end

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

local later = Notes.new()   -- execution -> f: tells an event that waits for more of its kind

-- Call f() before the next event of this execution, or else at the end of the call: so events of one kind that follow
-- each other in a call can become one.
function Executions.tell_later(x, f) Undo.put(later, x, f) end

-- Emit an event of this execution, to the outbox and to its history. data: a table, or packed; see Events.tell. brief: a
-- function that packs it as the history keeps it, where that is shorter (execution/history.lua).
function Executions.note(x, name, actor, from, to, reason, data, brief)
  local before = later.of[x]
  if before then
    Undo.put(later, x, nil)
    before()
  end
  local log, event = x.log, Events.tell('execution', x, name, actor, from, to, reason, data)
  if brief then event = brief(x) end
  x.log = log and log .. event or event
end

-- The same. about: {from, to, reason, data, actor}, all optional.
function Executions.tell(x, name, about)
  Executions.note(x, name, about.actor, about.from, about.to, about.reason, about.data)
end

-- Return the data of an event that tells the attempt's number, packed.
function Executions.attempt_data(x)
  local n = x.attempt_index
  return attempts[n] or pack_attempt(n)
end

-- Emit the event about the last progress that the worker reported.
function Executions.tell_progress(x, actor)
  x.progress_told_at, x.progress_untold = Call.now, nil
  Executions.tell(x, 'progress', { actor = actor, data = { pct = x.progress.pct, message = x.progress.message } })
end

-- Return the spec of a new execution like x: without the times, flow and parent of x.
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

-- Refuse a spec whose times make no sense now. within: the spec's path in the request ('children[0].').
-- Errors: invalid_request.
function Executions.check_spec(spec, within)
  within = within or ''
  if spec.deadline_at and spec.deadline_at <= Call.now then Errors.invalid(within .. 'deadline_at', 'is in the past') end
  if spec.deadline_at and spec.run_at and spec.run_at >= spec.deadline_at then
    Errors.invalid(within .. 'run_at', 'is not before deadline_at')
  end
end

-- Return the failure of an attempt, or of an execution that fails without an attempt.
function Executions.failure(x, reason, category)
  return { reason = reason, category = category, attempt = x.attempt_index or 0 }
end

Call.on_end(function()
  for x, f in pairs(later.of) do
    later.of[x] = nil
    f()
  end
end)
