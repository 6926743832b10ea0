-- The scheduler's ops that hand work out: who gets what, under which limits, and what comes back undelivered.
--
-- Needs: Blocks, Call, Executions, Fences, Graph, Lanes, Leases, Limits, Queues, Records, States.
local ops = Ops.scheduler

local function set_of(names)
  local set = {}
  for _, name in ipairs(names or {}) do set[name] = true end
  return set
end

-- Whether there is no room in the limits of this execution; then its queue stands aside. Otherwise it has taken it.
local function refused(x)
  if Blocks.read(x.limit) then return true end
  local slot = x.id .. '|' .. Call.unique()
  local full = Limits.take(x.limit, slot, Call.now + (Call.limits.grant_ttl_ms or 5000), Call.partition())
  if full then Queues.block(x, full) else x.slot = slot end
  return full ~= nil
end

-- One ready execution that was found: give(x, i) if it may run now. A cancelled flow's member ends here instead, that of a
-- flow that waits is set aside.
-- Returns whether it was given, and whether it has no room.
local function offer(x, i, give)
  local f = x.flow_id and Records.read('f', x.flow_id)
  if f and f.status == 'cancelled' then
    Executions.cancel(x, 'flow_cancelled', 'canceled', 'scheduler')
  elseif f and f.status == 'waiting' then
    Graph.set_aside(x)
  elseif x.limit and refused(x) then
    return false, true
  else
    Queues.count(x)
    give(x, i)
    return true, false
  end
end

-- Up to `a.max` ready executions that this worker can do, best first: give(x) for each that may run now.
-- Returns {lane: true} for the lanes that may have more.
local function each_found(a, give)
  local has = set_of(a.capabilities)
  local given, more = 0, {}
  for _, lane in ipairs(a.lanes) do
    local room = a.max - given
    if room <= 0 then
      more[lane] = true
    elseif not Lanes.paused(lane) then
      local ids, cut = Queues.take(lane, has, room)
      if #ids == room or cut then more[lane] = true end
      Records.prefetch('x', ids)
      for _, id in ipairs(ids) do
        local yes, full = offer(Records.edit('x', id), nil, give)
        if yes then given = given + 1 end
        if full then more[lane] = true end
      end
    end
  end
  return next(more) and more or nil
end

-- Those that were chosen among the heads of several partitions, as far as they still are ready: give(x, i) for each that may
-- run now, the ith of a.ids. a.turns: {lane: [[fairness key, turns]]}.
local function each_chosen(a, give)
  for lane, turns in pairs(a.turns) do Queues.catch_up(lane, turns) end
  Records.prefetch('x', a.ids)
  for i, id in ipairs(a.ids) do
    local x = Records.read('x', id)
    if x and x.state == 'ready' and not x.grant_id and not Lanes.paused(x.lane) then
      offer(Records.edit('x', id), i, give)
    end
  end
end

-- A grant, as it is answered. remote: the limit's tokens that are kept in other partitions, to be asked for by `admit`
-- before the grant may be used, under the name `slot`.
local function grant(x, worker_id)
  Leases.grant(x, worker_id)
  local answer = { x.grant_id, x.id, x.via == 'resumed', x.via == 'reclaim', x.grant_expires_at }
  local remote = x.limit and Limits.remote(x.limit)
  if remote then answer[6], answer[7] = remote, x.slot end
  return answer
end

-- heads: what a worker would get here, to be compared with other partitions. args: lanes, capabilities (list), max.
-- reply: {lanes: one list per lane, of [id, fairness key, score (lower is sooner), turns], more: {lane: true}}.
function ops.heads(a)
  local has, room = set_of(a.capabilities), a.max
  local lanes, more = {}, {}
  for i, lane in ipairs(a.lanes) do
    local heads = {}
    if room <= 0 then
      more[lane] = true
    elseif not Lanes.paused(lane) then
      local cut
      heads, cut = Queues.heads(lane, has, room)
      if cut then more[lane] = true end
      room = room - #heads
    end
    lanes[i] = heads
  end
  return { lanes = lanes, more = next(more) and more or nil }
end

-- grant: the right to claim up to `max` ready executions, or those of `ids`. args: worker_id, lanes, capabilities (list), max;
-- or ids and turns, see each_chosen.
-- reply: {grants: [[grant_id, execution_id, resumed, reclaim, expires_at, remote, slot]…], more: {lane: true}}.
function ops.grant(a)
  local grants = {}
  local each = a.ids and each_chosen or each_found
  local more = each(a, function(x) grants[#grants + 1] = grant(x, a.worker_id) end)
  return { grants = grants, more = more }
end

-- held: what holds work of these lanes back from this worker. args: lanes, capabilities. reply: nil, or {code (of the
-- error), wait_ms (until it may go on)}.
function ops.held(a)
  local has, first = set_of(a.capabilities), nil
  for _, lane in ipairs(a.lanes) do
    local block = not Lanes.paused(lane) and Queues.aside(lane, has)
    if block and (not first or block.until_at < first.until_at) then first = block end
  end
  return first and { code = first.code, wait_ms = math.max(1, first.until_at - Call.now) } or nil
end

-- hand_out: up to `max` ready executions, leased (and started), to workers that can do the same: `work.next` in one step.
-- The takers get them by turns, or those of `ids` as `to` says. What needs room in other partitions is only granted: `admit`
-- there, then `claim`.
-- args: takers [{worker_id, max, lease_ttl_ms, start}]; lanes, capabilities (list), max; or ids, to (the taker of each) and turns,
-- see each_chosen.
-- reply: {tasks, grants (lists, one of each per taker; grants as above), more: {lane: true}}. events: leased (and started).
function ops.hand_out(a)
  local takers, tasks, grants, rooms, room = a.takers, {}, {}, {}, 0
  for i, taker in ipairs(takers) do
    tasks[i], grants[i], rooms[i] = {}, {}, taker.max
    room = room + taker.max
  end
  if a.max then a.max = math.min(a.max, room) end
  local turn = 0
  local each = a.ids and each_chosen or each_found
  local more = each(a, function(x, i)
    if i then
      turn = a.to[i]
    else
      repeat turn = turn % #takers + 1 until rooms[turn] > 0
      rooms[turn] = rooms[turn] - 1
    end
    local taker = takers[turn]
    if x.limit and Limits.remote(x.limit) then
      local granted = grants[turn]
      granted[#granted + 1] = grant(x, taker.worker_id)
    else
      Leases.take(x, taker.worker_id, taker.lease_ttl_ms, taker.start)
      local taken = tasks[turn]
      taken[#taken + 1] = Leases.task(x)
    end
  end)
  return { tasks = tasks, grants = grants, more = more }
end

-- claim: a grant of `hand_out` becomes a lease. args: execution_id, grant_id, worker_id, lease_ttl_ms, start, verb (any).
-- reply: a task. errors: see Leases.claim. events: leased (and started).
function ops.claim(a) return Leases.claim(a) end

-- admit: room in the tokens of a limit that are kept here. args: limit, slot, expires_at, asker (the partition that asks).
-- reply: nil, or what has no room, as Limits.take.
function ops.admit(a) return Limits.take(a.limit, a.slot, a.expires_at, tostring(a.asker)) end

-- ungrant: another partition had no room: the grant is taken back, its queue stands aside. args: execution_id,
-- grant_id, full (of `admit`). errors: execution_not_found.
function ops.ungrant(a)
  local x = Executions.edit(a.execution_id)
  if x.grant_id == a.grant_id and x.state == 'ready' then
    Leases.ungrant(x)
    Queues.block(x, a.full)
  end
end

-- slot: a slot of a token kept here lasts until expires_at, or ends (0). args: token, slot, expires_at, began (whether
-- what held it ever ran).
function ops.slot(a)
  if a.expires_at == 0 then
    Limits.free_token(a.token, a.slot, a.began)
  else
    Limits.extend_token(a.token, a.slot, a.expires_at)
  end
end

-- slot_ends: until when an execution of this partition holds a slot; 0: it does not. args: slot. reply: {expires_at}.
function ops.slot_ends(a) return { expires_at = Limits.ends(a.slot) } end

-- unblock: a token elsewhere has room for `room` again. args: token, room. reply: {left}: whether others still wait here,
-- of whom the token is to be told (`wait_room`).
function ops.unblock(a) return { left = Blocks.open_token(a.token, a.room) } end

-- wait_room: in the partition `waiter` some still wait for a token kept here. args: token, waiter.
function ops.wait_room(a) Limits.wait(a.token, tostring(a.waiter)) end

-- give_back: the worker never got the task: back to the queue, nothing used. args: fence. reply: {state}.
-- errors: fence errors. events: returned.
function ops.give_back(a)
  local x, repeated = Fences.hold(a, 'give_back')
  if not x then return repeated end
  if not Executions.cancel_if_asked(x, 'scheduler') then
    local via = x.claimed_via
    States.transition(x, 'ready', { event = 'returned', why = 'worker_gone', actor = 'scheduler' })
    x.via = via
  end
  return Fences.consume(x, a, 'give_back', { state = x.state })
end

-- refuse: no worker can be sent this task: it fails for good. args: fence, reason, category. reply: {outcome}.
-- errors: fence errors. events: failed.
function ops.refuse(a)
  local x, repeated = Fences.hold(a, 'refuse')
  if not x then return repeated end
  if x.state == 'leased' then Leases.start(x) end
  return Fences.consume(x, a, 'refuse', Leases.fail(x, a.reason, a.category, false, nil, 'scheduler'))
end
