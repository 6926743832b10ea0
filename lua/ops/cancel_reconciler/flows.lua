-- The cancel-reconciler's ops that cancel flows and stop their members.
--
-- The members of a cancelled flow are first listed, then stopped, both in slices: by the caller's handler or, if that
-- has died, by the due loop. Key ct lists the members to stop. f.cancel_next is the last position listed (in key fl; nil:
-- all are listed), f.stop_next the number of listed members that were stopped (nil: all of them). f.unstopped counts the
-- members in ct that still run (each has x.counted set; Graph.member_moved decrements the count).
--
-- Needs: Call, Errors, Events, Flows, Graph, Keys, Records, States.
local ops = Ops.cancel_reconciler

local ACTOR = 'cancel-reconciler'
-- The due loop takes over the walk of a flow when its handler has made no step for this long.
Cancels.HANDOVER_MS = 1000
-- Members that one step, or one due call, stops: 1 to 2 ms of Valkey's time. To list a member costs an eighth of that.
Cancels.SLICE = 25
local LISTED_FOR_ONE = 8

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

local function try_member(id, f) Cancels.stop(Records.edit('x', id), 'flow_cancelled', f.cancel_grace_ms, 'flow:' .. f.id) end

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
    Cancels.next_look(x, Errors.text(err))
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
function Cancels.walk(f, room)
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
    Flows.move(f, 'cancelled', { reason = Cancels.why(a.reason), data = { policy = a.policy } })
    if f.kind == 'managed' and a.policy ~= 'flow_only' then
      f.cancel_grace_ms = a.grace_ms
      Flows.stop_members(f, Call.now + Cancels.HANDOVER_MS)
      Cancels.walk(f, Cancels.SLICE)
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
    f.cancel_at = Call.now + Cancels.HANDOVER_MS
    Cancels.walk(f, Cancels.SLICE)
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
