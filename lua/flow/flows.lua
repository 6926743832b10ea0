-- Flows: the record and its moves (contract §5). The graph of the members is in flow/graph.lua and flow/work.lua.
--
-- Fields beside those of flow.get: total (members), counts (members per state), completion and completion_task
-- (mirrored), work_at (when left-over graph work continues), cancel_at (when the cancel-reconciler has work; with
-- cancel_next, stop_next, cancel_policy, cancel_grace_ms and unstopped: ops/cancel_reconciler/flows.lua), retire_at
-- (when the next slice of members is deleted), rule {name, key} (the mirror rule that created the flow), namespace, seq.
--
-- Needs: Call, Due, Errors, Events, Executions, Keys, Payloads, Places, Records.

local MOVES = {
  created = { running = true, cancelled = true },
  running = { waiting = true, finished = true, failed = true, cancelled = true },
  waiting = { running = true, failed = true, cancelled = true },
  finished = {}, failed = {}, cancelled = {},
}

Flows.STATUSES = { 'created', 'running', 'waiting', 'finished', 'failed', 'cancelled' }
Flows.TERMINAL = { finished = true, failed = true, cancelled = true }

-- Return whether every member has ended (a mirrored flow has no members). A running member may outlive the end of its
-- flow, so the flow's record is kept until all have ended.
local function all_ended(f)
  return f.kind == 'mirrored' or (f.counts.completed or 0) + (f.counts.failed or 0) + (f.counts.canceled or 0) >= f.total
end

local also   -- also(flow, placement): adds further places of a flow (flow/waits.lua)

-- Register f(flow, placement), which adds further places to a flow's placement.
function Flows.also_placed(f) also = f end

Places.define('f', function(f)
  local placement = { [Keys.flows(f.status)] = 0, [Keys.flows_of(f.owner, f.status)] = 0 }
  if f.work_at then
    placement[Due.key('scheduler', 'f')] = f.work_at
  elseif Flows.TERMINAL[f.status] and all_ended(f) then
    placement[Due.key('scheduler', 'f')] = f.retire_at or f.finished_at + Call.retention_ms()
  elseif f.status == 'created' then
    placement[Due.key('scheduler', 'f')] = f.updated_at + Call.retention_ms()
  end
  if f.cancel_at then placement[Due.key('cancel_reconciler', 'f')] = f.cancel_at end
  also(f, placement)
  return placement
end)

-- Errors: flow_not_found.
function Flows.read(id)
  local f = Records.read('f', id)
  if not f then Errors.raise('flow_not_found', { flow_id = id }) end
  return f
end

-- Return a flow for changing. expected_revision: the revision that the caller knows, or nil.
-- Errors: flow_not_found, revision_mismatch {expected, actual}.
function Flows.edit(id, expected_revision)
  Flows.read(id)
  local f = Records.edit('f', id)
  if expected_revision and expected_revision ~= f.revision then
    Errors.raise('revision_mismatch', { expected = expected_revision, actual = f.revision })
  end
  return f
end

-- Refuse a change of a flow that has ended or whose cancellation was requested. to: the new status; nil: unchanged.
-- Errors: already_terminal, cancel_pending.
function Flows.check_open(f, to)
  if Flows.TERMINAL[f.status] then Errors.raise('already_terminal', { status = f.status }) end
  if f.cancel_requested and to ~= 'cancelled' then Errors.raise('cancel_pending', { status = f.status }) end
end

-- Refuse a move that is not in MOVES or that a requested cancellation forbids. from: the status that the move must begin
-- in; nil: any. Errors: already_terminal, cancel_pending, illegal_transition {from, to}.
function Flows.check(f, to, from)
  Flows.check_open(f, to)
  if not MOVES[f.status][to] or from and f.status ~= from then Errors.raise('illegal_transition', { from = f.status, to = to }) end
end

-- Record a change of a flow: count up its revision and emit the event.
function Flows.mutate(f, event, about)
  f.revision = f.revision + 1
  f.updated_at = Call.now
  Events.emit('flow', f, event, about)
end

-- Move a flow to another status. about: {reason, data, actor, event (default: the status)}.
-- Errors: those of Flows.check.
function Flows.move(f, to, about)
  Flows.check(f, to)
  local from = f.status
  f.status = to
  if to ~= 'waiting' then f.wait = nil end
  if Flows.TERMINAL[to] then
    f.finished_at = Call.now
    Call.hint_item('flow_ended', f.id)
  end
  Flows.mutate(f, about.event or to, { from = from, to = to, reason = about.reason, data = about.data, actor = about.actor })
end

-- End a flow because its members or steps have ended: as `to`, or as cancelled if cancellation was requested.
function Flows.conclude(f, to, about)
  if f.cancel_requested and to ~= 'cancelled' then
    to, about.reason = 'cancelled', 'cancel_requested'
  end
  Flows.move(f, to, about)
end

-- Create a flow and return it. a: fields of flow.create; kind: managed or mirrored; status: its first status.
function Flows.create(id, a, kind, status)
  local f = Records.create('f', id, {
    kind = kind, namespace = a.namespace, controller_id = a.controller_id, goal = a.goal, owner = a.owner,
    requester_origin = a.requester_origin, current_step = a.current_step, status = status, revision = 0,
    graph_revision = 0, counts = {}, total = 0, created_at = Call.now, updated_at = Call.now,
    completion = a.completion, completion_task = a.completion_task,
  })
  Payloads.put('state', id, a.state)
  Flows.mutate(f, 'created', { to = status, data = { kind = kind, owner = a.owner }, actor = a.actor })
  return f
end

-- Return a flow's state and revision, for a patch that Python merges.
-- Errors: flow_not_found, already_terminal, cancel_pending.
function Flows.state_of(id)
  local f = Flows.read(id)
  Flows.check_open(f)
  return { state = Payloads.get('state', id) or 'null', revision = f.revision, now = Call.now }
end

-- Write a flow's state and step. a: {state (JSON text, already merged; nil: unchanged), next_step (nil: unchanged)}.
function Flows.put_state(f, a)
  if a.state then Payloads.put('state', f.id, a.state) end
  if a.next_step then f.current_step = a.next_step end
end

-- Return the record as a reply.
function Flows.view(f)
  local counts = {}
  for state, n in pairs(f.counts) do
    if n > 0 then counts[state] = n end
  end
  return {
    flow_id = f.id, kind = f.kind, namespace = f.namespace or 'default', controller_id = f.controller_id, goal = f.goal,
    owner = f.owner, requester_origin = f.requester_origin, current_step = f.current_step,
    state = Payloads.get('state', f.id) or 'null', wait = f.wait, status = f.status,
    cancel_requested = f.cancel_requested or false, revision = f.revision, graph_revision = f.graph_revision,
    counts = next(counts) and counts or nil, created_at = f.created_at, updated_at = f.updated_at,
    finished_at = f.finished_at,
  }
end

-- Let the cancel-reconciler stop the members of a cancelled flow; its due loop begins at `at`.
function Flows.stop_members(f, at) f.cancel_next, f.stop_next, f.cancel_at = 0, 0, at end

-- Cancel a flow that was not started within the retention time.
function Flows.give_up(f)
  f.cancel_policy, f.cancel_grace_ms = 'cancel_all', 0
  Flows.stop_members(f, Call.now)
  Flows.move(f, 'cancelled', { reason = 'never_started', data = { policy = f.cancel_policy }, actor = 'scheduler' })
end

-- Retention is over: delete at most `slice` members, and finally the flow. Return how much of the slice was used.
function Flows.retire(f, slice)
  if slice <= 0 then
    f.retire_at = Call.now
    return 0
  end
  local ids = redis.call('ZPOPMIN', Keys.of('fl', f.id), slice)
  for i = 1, #ids, 2 do
    local x = Records.edit('x', ids[i])
    if x then Executions.retire(x) end
  end
  if #ids == slice * 2 then
    f.retire_at = Call.now
    return slice
  end
  Payloads.drop('state', f.id)
  if f.rule then Records.unlink(Keys.rule_flow(f.rule.name, f.rule.key)) end
  for _, part in ipairs({ 'fm', 'fl', 'fo', 'fi', 'fj', 'fw', 'ft', 'fr', 'ct' }) do Records.unlink(Keys.of(part, f.id)) end
  Records.delete('f', f.id)
  return #ids / 2 + 1
end
