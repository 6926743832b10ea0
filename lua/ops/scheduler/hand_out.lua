-- The scheduler's ops that hand out ready executions to workers, within their limits, and take back undelivered tasks.
--
-- Needs: Blocks, Call, Executions, Fences, Graph, Lanes, Leases, Limits, Profiles, Queues, Records.
local ops = Ops.scheduler

-- Take room in the limits of an execution. Return true if there is no room; then its queue is blocked.
local function refused(x)
  if Blocks.read(x.limit) then return true end
  local slot = x.id .. '|' .. Call.unique()
  local full = Limits.take(x.limit, slot, Call.now + (Call.limits.grant_ttl_ms or 5000), Call.partition())
  if full then Queues.block(x, full) else x.slot = slot end
  return full ~= nil
end

-- Call give(x, i) with a ready execution if it may run now. A member of a cancelled flow is canceled instead; a member
-- of a waiting flow is set aside. Return whether the execution was given, and whether its limits have no room.
local function offer(x, i, give)
  local f = x.flow_id and not x.ending and Records.read('f', x.flow_id)
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

-- Find at most `a.max` ready executions for a worker with `a.capabilities` that takes `a.kinds`, best first, and call
-- give(x) with each that may run now. Return {lane: true} for the lanes that may have more; nil if there is none.
local function each_found(a, give)
  local profile = Profiles.of(a)
  local given, more = 0, {}
  for _, lane in ipairs(a.lanes) do
    local room = a.max - given
    if room <= 0 then
      more[lane] = true
    elseif not Lanes.paused(lane) then
      local ids, cut = Queues.take(lane, profile, room)
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

-- Call give(x, i) with each execution a.ids[i] that is still ready and may run now. The service has chosen the ids
-- among the heads of several partitions. a.turns: {lane: [[fairness key, turns taken in all partitions]]}.
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

-- Make a grant and return it as the reply has it. Its field `remote` lists the limit's tokens that are kept in other
-- partitions: before the grant may be used, each must be taken there by `admit`, under the name `slot`.
local function grant(x, worker_id)
  Leases.grant(x, worker_id)
  local answer = { x.grant_id, x.id, x.via == 'resumed', x.via == 'reclaim', x.grant_expires_at }
  local remote = x.limit and Limits.remote(x.limit)
  if remote then answer[6], answer[7] = remote, x.slot end
  return answer
end

-- heads: list what a worker would get here, to compare it with other partitions. args: lanes, capabilities, kinds
-- (lists), max. reply: {lanes: one list per lane, of [id, fairness key, score (lower is sooner), turns], more: {lane: true}}.
function ops.heads(a)
  local profile, room = Profiles.of(a), a.max
  local lanes, more = {}, {}
  for i, lane in ipairs(a.lanes) do
    local heads = {}
    if room <= 0 then
      more[lane] = true
    elseif not Lanes.paused(lane) then
      local cut
      heads, cut = Queues.heads(lane, profile, room)
      if cut then more[lane] = true end
      room = room - #heads
    end
    lanes[i] = heads
  end
  return { lanes = lanes, more = next(more) and more or nil }
end

-- grant: grant a worker the right to claim up to `max` ready executions, or those of `ids`. args: worker_id, lanes,
-- capabilities, kinds (lists), max; or ids and turns, see each_chosen.
-- reply: {grants: [[grant_id, execution_id, resumed, reclaim, expires_at, remote, slot]…], more: {lane: true}}.
function ops.grant(a)
  local grants = {}
  local each = a.ids and each_chosen or each_found
  local more = each(a, function(x) grants[#grants + 1] = grant(x, a.worker_id) end)
  return { grants = grants, more = more }
end

-- held: return the limit that blocks work of these lanes for a worker and ends first. args: lanes, capabilities,
-- kinds. reply: nil, or {code (of the error), wait_ms (until the block may end)}.
function ops.held(a)
  local profile, first = Profiles.of(a), nil
  for _, lane in ipairs(a.lanes) do
    local block = not Lanes.paused(lane) and Queues.aside(lane, profile)
    if block and (not first or block.until_at < first.until_at) then first = block end
  end
  return first and { code = first.code, wait_ms = math.max(1, first.until_at - Call.now) } or nil
end

-- hand_out: lease (and start) up to `max` ready executions for workers with the same lanes, capabilities and kinds:
-- `work.next` in one step. The takers get executions in turn, or those of `ids` as `to` says. An execution that needs
-- room in other partitions is only granted: `admit` there must follow, then `claim`.
-- args: takers [{worker_id, max, lease_ttl_ms, start}]; lanes, capabilities, kinds (lists), max; or ids, to (the taker's index
-- for each id) and turns, see each_chosen.
-- reply: {tasks, grants (one list of each per taker; grants as in `grant`), more: {lane: true}}.
-- events: leased (with `start`: started).
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

-- claim: turn a grant of `hand_out` into a lease. args: execution_id, grant_id, worker_id, lease_ttl_ms, start,
-- verb (any). reply: a task. errors: see Leases.claim. events: leased (with `start`: started).
function ops.claim(a) return Leases.claim(a) end

-- admit: take room in the tokens of a limit that are kept here. args: limit, slot, expires_at, asker (the partition
-- that asks). reply: nil, or what has no room {code, until_at, token}, as from Limits.take.
function ops.admit(a) return Limits.take(a.limit, a.slot, a.expires_at, tostring(a.asker)) end

-- ungrant: take back a grant, as another partition had no room, and block the execution's queue. args: execution_id,
-- grant_id, full (the reply of `admit`). errors: execution_not_found.
function ops.ungrant(a)
  local x = Executions.edit(a.execution_id)
  if x.grant_id == a.grant_id and x.state == 'ready' then
    Leases.ungrant(x)
    Queues.block(x, a.full)
  end
end

-- slot: extend a slot of a token kept here to expires_at, or free it (0). args: token, slot, expires_at, began (whether
-- the execution that held the slot ever began).
function ops.slot(a)
  if a.expires_at == 0 then
    Limits.free_token(a.token, a.slot, a.began)
  else
    Limits.extend_token(a.token, a.slot, a.expires_at)
  end
end

-- slot_ends: return until when an execution of this partition holds a slot (0: it does not). args: slot.
-- reply: {expires_at}.
function ops.slot_ends(a) return { expires_at = Limits.ends(a.slot) } end

-- unblock: unblock queues here, as a token of another partition has room for `room` more. args: token, room.
-- reply: {left}: whether others still wait here; the token's partition must then be told (`wait_room`).
function ops.unblock(a) return { left = Blocks.open_token(a.token, a.room) } end

-- wait_room: note that executions in the partition `waiter` still wait for a token kept here. args: token, waiter.
function ops.wait_room(a) Limits.wait(a.token, tostring(a.waiter)) end

-- give_back: return a task that never reached its worker to the queue; no attempt is used. args: fence. reply: {state}.
-- errors: fence errors. events: returned.
function ops.give_back(a)
  local x, repeated = Fences.hold(a, 'give_back')
  if not x then return repeated end
  Leases.put_back(x, { event = 'returned', why = 'worker_gone', actor = 'scheduler' })
  return Fences.consume(x, a, 'give_back', { state = x.state })
end

-- refuse: fail an execution for good, as its task cannot be sent to a worker. args: fence, reason, category.
-- reply: {outcome}.
-- errors: fence errors. events: failed.
function ops.refuse(a)
  local x, repeated = Fences.hold(a, 'refuse')
  if not x then return repeated end
  if x.state == 'leased' then Leases.start(x) end
  return Fences.consume(x, a, 'refuse', Leases.fail(x, a.reason, a.category, false, nil, 'scheduler'))
end
