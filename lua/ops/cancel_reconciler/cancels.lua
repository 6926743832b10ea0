-- The cancel-reconciler's ops: cancel executions and flows, and make sure that they really stop.
--
-- An execution without a worker is canceled at once. A worker that holds one is asked to stop, repeatedly; after the
-- grace its lease is revoked. Until then the execution is in the backlog, with x.stopping {since, until_at (end of the
-- grace), tries, error} and x.cancel_at (time of the next check).
--
-- The members of a cancelled flow are first listed, then stopped, both in slices: by the caller's handler or, if that
-- has died, by the due loop. Key ct lists the members to stop. f.cancel_next is the last position listed (in key fl; nil:
-- all are listed), f.stop_next the number of listed members that were stopped (nil: all of them). f.unstopped counts the
-- members in ct that still run (each has x.counted set; Graph.member_moved decrements the count).
--
-- Needs: Call, Children, Dispatch, Due, Errors, Events, Executions, Flows, Graph, Keys, Records, States.
local ops = Ops.cancel_reconciler

local ACTOR = 'cancel-reconciler'
-- The due loop takes over the walk of a flow when its handler has made no step for this long.
local HANDOVER_MS = 1000
-- Members that one step, or one due call, stops: 1 to 2 ms of Valkey's time. To list a member costs an eighth of that.
local SLICE = 25
local LISTED_FOR_ONE = 8
local CHILD_GRACE_MS = 10000   -- grace of the children whose parent has ended

local function why(reason) return reason and reason ~= '' and reason or 'canceled' end

-- Count one more try and schedule the next check. The pause doubles with each try, but ends with the grace at latest.
local function next_look(x, error)
  local s = x.stopping
  s.tries = s.tries + 1
  s.error = error
  x.cancel_at = Call.now + Executions.pause_ms(s.tries)
  if s.until_at > Call.now then x.cancel_at = math.min(x.cancel_at, s.until_at) end
end

-- Ask the worker that holds the execution to stop. A repeated request may shorten the grace, never prolong it.
local function request(x, reason, grace_ms, actor)
  local until_at = Call.now + grace_ms
  if x.stopping then
    x.stopping.until_at = math.min(x.stopping.until_at, until_at)
  else
    x.cancel_requested, x.cancel_reason = true, reason
    x.stopping = { since = Call.now, until_at = until_at, tries = 0 }
    x.updated_at = Call.now
    Executions.tell(x, 'cancel_requested', { reason = reason, actor = actor, data = { grace_ms = grace_ms } })
  end
  Call.hint_item('cancel', { x.worker_id, x.id, x.lease_id })
  next_look(x)
end

-- Without a grace, nothing is undone either.
local function stop(x, reason, grace_ms, actor)
  if grace_ms == 0 then
    Executions.stop(x, reason, 'canceled', actor, true)
  elseif States.HELD[x.state] and not x.ending then
    request(x, reason, grace_ms, actor)
  elseif not x.ending then
    Executions.stop(x, reason, 'canceled', actor)
  end
end

-- cancel: cancel an execution. args: execution_id, reason, grace_ms. reply: {state}.
-- errors: execution_not_found, already_terminal. events: canceled, or cancel_requested when a worker holds it.
function ops.cancel(a)
  local x = Executions.edit(a.execution_id)
  if x.state ~= 'canceled' then
    States.check(x, 'canceled')
    stop(x, why(a.reason), a.grace_ms, nil)
  end
  return { state = x.state }
end

-- flow_request_cancel: from now on the flow can only move to cancelled. args: flow_id, expected_revision.
-- A waiting flow whose members have all ended is cancelled by it, since nothing may wake that flow any more.
-- reply: the flow. errors: flow_not_found, already_terminal, revision_mismatch. events: flow cancel_requested (once).
function ops.flow_request_cancel(a)
  local f = Flows.read(a.flow_id)
  Flows.check(f, 'cancelled')
  if not f.cancel_requested then
    Flows.edit(a.flow_id, a.expected_revision)
    f.cancel_requested = true
    Flows.mutate(f, 'cancel_requested', {})
    Graph.settle(f)
    Graph.work()
  end
  return Flows.view(f)
end

local function try_member(id, f) stop(Records.edit('x', id), 'flow_cancelled', f.cancel_grace_ms, 'flow:' .. f.id) end

local function drop_ghost(f, id)
  Events.emit('flow', f, 'cancel_dropped', { reason = 'execution_not_found', actor = ACTOR, data = { execution_id = id } })
end

-- Return whether the cancellation has to stop this member.
local function concerns(f, x)
  return not States.TERMINAL[x.state] and (f.cancel_policy == 'cancel_all' or not States.HELD[x.state])
end

-- List the next members to stop, of at most `max`. Return how many members were looked at.
local function list(f, max)
  local found = redis.call('ZRANGE', Keys.of('fl', f.id), '(' .. f.cancel_next, '+inf', 'BYSCORE', 'LIMIT', 0, max, 'WITHSCORES')
  local ids, listed = {}, {}
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  Records.prefetch('x', ids)
  for _, id in ipairs(ids) do
    local x = Records.read('x', id)
    if not x then
      drop_ghost(f, id)
    elseif concerns(f, x) then
      listed[#listed + 1] = id
    end
  end
  if #listed > 0 then redis.call('RPUSH', Keys.of('ct', f.id), unpack(listed)) end
  local last = tonumber(found[#found])   -- members are numbered from 1 to f.total
  f.cancel_next = last and last < f.total and last or nil
  return #ids
end

-- Stop one listed member. A failure does not hold up the other members: this one is tried again later.
local function stop_member(f, id)
  local x = Records.read('x', id)
  if not x then return drop_ghost(f, id) end
  if not concerns(f, x) then return end
  local ok, err = Records.attempt(try_member, id, f)
  x = Records.edit('x', id)
  if States.TERMINAL[x.state] then return end
  if not ok then
    x.cancel_requested, x.cancel_reason = true, 'flow_cancelled'
    x.stopping = x.stopping or { since = Call.now, until_at = Call.now, tries = 0 }
    next_look(x, Errors.text(err))
  end
  x.counted = true
  f.unstopped = (f.unstopped or 0) + 1
end

-- Stop the next listed members, at most `max`. Return how many.
local function stop_listed(f, max)
  local ids = redis.call('LRANGE', Keys.of('ct', f.id), f.stop_next, f.stop_next + max - 1)
  Records.prefetch('x', ids)
  for _, id in ipairs(ids) do stop_member(f, id) end
  f.stop_next = f.stop_next + #ids
  if #ids < max then
    f.stop_next, f.cancel_at = nil, nil
    if not f.unstopped then Call.hint_item('flow_done', f.id) end
  end
  return #ids
end

-- Do the next step of a cancellation, worth `room` stopped members. Return how much of the room was used.
local function walk(f, room)
  local used = 0
  if f.cancel_next then used = math.ceil(list(f, room * LISTED_FOR_ONE) / LISTED_FOR_ONE) end
  if not f.cancel_next and used < room then used = used + stop_listed(f, room - used) end
  return used
end

-- Return a cancellation's progress: listed (all members to stop are listed), more (listed or unlisted members are still
-- to be stopped), left (stopped members that still run).
local function progress(f)
  return { listed = not f.cancel_next, more = f.stop_next ~= nil, left = f.unstopped or 0 }
end

-- flow_cancel: cancel the flow at once and take the first step towards stopping its members. For a flow that is already
-- terminal nothing is changed. args: flow_id, policy (cancel_all | cancel_pending | flow_only), reason, grace_ms,
-- expected_revision. reply: {status, policy (the flow's own), again (the flow was already terminal), listed, more, left}.
-- errors: flow_not_found, revision_mismatch. events: flow cancelled; canceled or cancel_requested for members.
function ops.flow_cancel(a)
  local f = Flows.read(a.flow_id)
  local again = Flows.TERMINAL[f.status] or false
  if not again then
    Flows.edit(a.flow_id, a.expected_revision)
    f.cancel_policy = a.policy
    Flows.move(f, 'cancelled', { reason = why(a.reason), data = { policy = a.policy } })
    if f.kind == 'managed' and a.policy ~= 'flow_only' then
      f.cancel_grace_ms = a.grace_ms
      Flows.stop_members(f, Call.now + HANDOVER_MS)
      walk(f, SLICE)
    elseif f.kind == 'managed' then
      -- Members that can never begin must not keep the flow for ever.
      f.cancel_at = Call.now + Call.retention_ms()
    end
  end
  local reply = progress(f)
  reply.status, reply.policy, reply.again = f.status, f.cancel_policy, again
  return reply
end

-- flow_cancel_step: take the next step of a flow's cancellation. args: flow_id. reply: {listed, more, left}.
-- errors: flow_not_found. events: as flow_cancel.
function ops.flow_cancel_step(a)
  local f = Flows.edit(a.flow_id)
  if f.stop_next then
    f.cancel_at = Call.now + HANDOVER_MS
    walk(f, SLICE)
  end
  return progress(f)
end

-- flow_cancel_members: return members that a cancellation has to stop. args: flow_id, offset, limit, left (true: only
-- members that still run). reply: {ids, more, total}. errors: flow_not_found.
function ops.flow_cancel_members(a)
  Flows.read(a.flow_id)
  local key = Keys.of('ct', a.flow_id)
  local ids = redis.call('LRANGE', key, a.offset, a.offset + a.limit - 1)
  local more = #ids == a.limit
  if a.left then
    local left = {}
    Records.prefetch('x', ids)
    for _, id in ipairs(ids) do
      local x = Records.read('x', id)
      if x and not States.TERMINAL[x.state] then left[#left + 1] = id end
    end
    ids = left
  end
  return { ids = ids, more = more, total = redis.call('LLEN', key) }
end

-- flow_cancel_progress: see `progress` above. args: flow_id. reply: {listed, more, left}. errors: flow_not_found.
function ops.flow_cancel_progress(a) return progress(Flows.read(a.flow_id)) end

local LISTED = { f = 'x' }   -- the kind that follows each kind in the backlog: flows first, then executions

local function backlog_item(kind, id, at)
  local record = Records.read(kind, id)
  if not record then return nil end
  if kind == 'x' then
    local s = record.stopping or {}
    return { execution_id = id, flow_id = record.flow_id, tries = s.tries or 0, next_at = at, last_error = s.error }
  end
  -- All members of a flow that are not stopped yet make one item.
  if not record.stop_next then return nil end
  local members = redis.call('LLEN', Keys.of('ct', id)) - record.stop_next
  if record.cancel_next then
    members = members + redis.call('ZCOUNT', Keys.of('fl', id), '(' .. record.cancel_next, '+inf')
  end
  return { flow_id = id, members = members, tries = 0, next_at = at }
end

-- backlog: list what is still to be stopped in this partition, earliest next check first. args: kind ('f' flows or 'x'
-- executions), id and at (of the last item seen, optional), limit. reply: {items, next {kind, id, at}}.
function ops.backlog(a)
  Records.settle()
  local items, last = {}, nil
  local key = Due.key('cancel_reconciler', a.kind)
  local rank = a.id and redis.call('ZRANK', key, a.id)
  local found
  if rank then
    found = redis.call('ZRANGE', key, rank + 1, rank + a.limit, 'WITHSCORES')
  else
    found = redis.call('ZRANGE', key, a.at or '-inf', '+inf', 'BYSCORE', 'LIMIT', 0, a.limit, 'WITHSCORES')
  end
  for i = 1, #found, 2 do
    local at = tonumber(found[i + 1])
    items[#items + 1] = backlog_item(a.kind, found[i], at)
    last = { kind = a.kind, id = found[i], at = at }
  end
  if #found < a.limit * 2 then last = LISTED[a.kind] and { kind = LISTED[a.kind] } end
  return { items = items, next = last }
end

-- Return when a flow or execution of the backlog was asked to stop, or ended (its children or members must stop).
local function asked_at(kind, id)
  local record = Records.read(kind, id)
  if not record or kind == 'f' and not record.stop_next then return nil end
  return record.stopping and record.stopping.since or record.finished_at
end

-- backlog_size: count what is still to be stopped in this partition. args: sample (so many of each kind, those to be
-- checked next, are read for their age). reply: {executions, flows, oldest_at (of the sample), now}.
function ops.backlog_size(a)
  Records.settle()
  local count, oldest = {}, nil
  for _, kind in ipairs({ 'x', 'f' }) do
    local key = Due.key('cancel_reconciler', kind)
    -- A flow that was cancelled alone (flow_only) is due with its retention only: nothing has to be stopped before.
    count[kind] = redis.call('ZCOUNT', key, '-inf', kind == 'f' and Call.now + HANDOVER_MS or '+inf')
    local ids = redis.call('ZRANGE', key, 0, a.sample - 1)
    Records.prefetch(kind, ids)
    for _, id in ipairs(ids) do
      local at = asked_at(kind, id)
      if at and (not oldest or at < oldest) then oldest = at end
    end
  end
  return { executions = count.x, flows = count.f, oldest_at = oldest, now = Call.now }
end

local function revoke(id)
  local x = Records.edit('x', id)
  Executions.stop(x, x.cancel_reason, 'canceled', ACTOR)
end

-- Handle a due execution. After its end, stop the next of its children. If its worker was asked to stop and has not,
-- ask again; once the grace is over, revoke the lease.
local function due_execution(x)
  if x.closing then
    for _, id in ipairs(Children.next_closing(x, SLICE)) do
      local child = Records.read('x', id)
      if child and not States.TERMINAL[child.state] then
        stop(Records.edit('x', id), 'parent_' .. x.state, CHILD_GRACE_MS, 'execution:' .. x.id)
      end
    end
    return
  end
  if not x.cancel_at or x.cancel_at > Call.now then return end
  if x.ending or Executions.undoing(x) then return next_look(x, 'its compensations have not ended') end
  if x.stopping.until_at > Call.now then
    Call.hint_item('cancel', { x.worker_id, x.id, x.lease_id })
    next_look(x, 'worker ' .. x.worker_id .. ' has not stopped yet')
    return
  end
  local ok, err = Records.attempt(revoke, x.id)
  if not ok then
    x = Records.edit('x', x.id)
    next_look(x, Errors.text(err))
    return Errors.text(err)
  end
end

local room   -- how many members the running due call may still stop

local function due_flow(f)
  if not f.cancel_at or f.cancel_at > Call.now then return end
  -- The retention of a flow that was cancelled alone is over: stop its members that have not begun.
  if not f.stop_next then Flows.stop_members(f, Call.now) end
  f.cancel_at = Call.now
  if room > 0 then room = room - walk(f, room) end
end

Due.serve('cancel_reconciler', { f = due_flow, x = due_execution })

-- due: check executions whose workers were asked to stop, stop children of ended parents, walk cancelled flows whose
-- handler has died. args: limit. See Due.run.
function ops.due(a)
  room = SLICE
  return Due.run('cancel_reconciler', a.limit)
end

Dispatch.serve('cancel_reconciler')
