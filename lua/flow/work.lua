-- Graph work: when a member of a flow ends, joins count it, children run or are skipped, and the flow may end.
--
-- A member's end is counted at its children edge by edge. x.walked is the number of out edges already counted, so that
-- an edge added later is counted too, and no edge twice.
--
-- Work is a list of small items, done before the call ends. Items beyond the call's steps continue in the scheduler's
-- due loop, so that no call holds Valkey for long.
--
-- Needs: Call, Executions, Flows, Keys, Records, States, Undo.

local BUDGET = 50         -- steps of one call, each about 30 µs
local TAKEN = 50          -- left-over items of one flow that a call takes up
local AGAIN_MS = 60000    -- an item that failed is tried again after this time
local work                -- list of the items of this call, {flow, kind, …}; work.at: index of the next item
local budget              -- steps that this call may still do

work = { at = 1 }
Call.on_begin(function()
  if work[1] then work = { at = 1 } end
  budget = BUDGET
end)

-- Append an item of work for a flow.
function Graph.push(f, item)
  item.flow = f.id
  Undo.append(work, item)
end

-- Return whether the end of a member still has effects in the graph: the flow has begun and has not ended.
function Graph.active(f) return f.status == 'running' or f.status == 'waiting' end

local push, active = Graph.push, Graph.active

-- The flow begins: release the members without parents.
function Graph.start(f) push(f, { kind = 'roots', offset = 0 }) end

-- A member has ended: count that at the joins of its children.
function Graph.ended(f, x) push(f, { kind = 'ended', id = x.id }) end

-- End a flow whose members have all ended, which may have happened while the flow waited.
function Graph.settle(f) push(f, { kind = 'settle' }) end

-- A flow waits no longer: let the members begin that were held back.
function Graph.go_on(f)
  if not f.held then return Graph.settle(f) end
  f.held = nil
  push(f, { kind = 'held', offset = 0 })
end

-- Take a ready member of a waiting flow out of its queue until the flow resumes.
function Graph.set_aside(x)
  x.aside = true
  Records.edit('f', x.flow_id).held = true
end

-- A flow ends before its members: skip the members that no worker holds. The others may finish.
function Graph.stop(f, why) push(f, { kind = 'sweep', offset = 0, why = why }) end

-- A member has moved: update the flow's counts, and start graph work if the member has ended. A member of a cancelled
-- flow may end under the lease that it has; it never gets another one.
function Graph.member_moved(x, from, to)
  local f = Records.edit('f', x.flow_id)
  if not f then return end
  f.counts[from] = (f.counts[from] or 0) - 1
  f.counts[to] = (f.counts[to] or 0) + 1
  if States.TERMINAL[to] and x.counted then
    -- The cancelled flow was waiting for this member to stop.
    x.counted = nil
    f.unstopped = f.unstopped > 1 and f.unstopped - 1 or nil
    if not f.unstopped and not f.stop_next then Call.hint_item('flow_done', f.id) end
  end
  if States.TERMINAL[to] then
    if active(f) then Graph.ended(f, x) end
  elseif f.status == 'cancelled' and not States.HELD[to] then
    push(f, { kind = 'drop', id = x.id })
  end
end

-- Skip a member that is no longer needed: stop it at once, and tell its worker.
local function skip(id, why)
  local x = Records.edit('x', id)
  if not x or States.TERMINAL[x.state] then return end
  Executions.stop(x, why, 'skipped', 'flow:' .. x.flow_id)
end

local function satisfied(j)
  if j.policy == 'any_of' then return j.ok >= 1 end
  if j.policy == 'quorum' then return j.ok >= j.k end
  return j.ok == j.n
end

local function impossible(j)
  if j.policy == 'any_of' then return j.dead == j.n end
  if j.policy == 'quorum' then return j.n - j.dead < j.k end
  return j.dead > 0
end

-- The join of a member is satisfied: release the member, or hold it back while its flow waits.
local function release(f, x)
  if f.status == 'waiting' then f.held = true else Executions.release(x, 'flow:' .. f.id) end
end

-- Decide a join: release its member when the join is satisfied, skip the member when the join has become impossible.
local function settle(f, key, j)
  if j.done then return end
  local id = Graph.id_of(f, key)
  if satisfied(j) then
    j.done = 'run'
    local child = Records.edit('x', id)
    if child and child.state == 'scheduled' and child.reason == 'dependencies' then
      release(f, child)
    end
    if j.on == 'cancel_remaining' then push(f, { kind = 'siblings', member = key, offset = 0 }) end
  elseif impossible(j) then
    j.done = 'skip'
    skip(id, 'dependency_not_met')
  end
end

-- Count the end of a parent at the join of member `key`. Return whether the join is satisfied or still can be.
local function parent_ended(f, key, ok)
  local j = Graph.read_join(f, key)
  if ok then j.ok = j.ok + 1 else j.dead = j.dead + 1 end
  settle(f, key, j)
  Graph.write_join(f, key, j)
  return j.done ~= 'skip'
end

-- The kinds of work. Each handler does at most `steps` steps. It returns how many, and whether the item is complete.
local kinds = {}

-- Release the members without parents, from `offset` on.
function kinds.roots(f, item, steps)
  local ids = redis.call('ZRANGE', Keys.of('fl', f.id), item.offset, item.offset + steps - 1)
  for _, id in ipairs(ids) do
    local x = Records.edit('x', id)
    if x and States.TERMINAL[x.state] then
      -- The member was canceled before the flow began: its children must count that.
      Graph.ended(f, x)
    elseif x and x.reason == 'dependencies' and not Graph.read_join(f, x.member) then
      release(f, x)
    end
  end
  item.offset = item.offset + #ids
  return #ids, #ids < steps
end

-- The flow waits no longer: release the members that were held back, from `offset` on.
function kinds.held(f, item, steps)
  local ids = redis.call('ZRANGE', Keys.of('fl', f.id), item.offset, item.offset + steps - 1)
  for _, id in ipairs(ids) do
    local x = Records.read('x', id)
    if x and x.aside then
      Records.edit('x', id).aside = nil
    elseif x and x.state == 'scheduled' and x.reason == 'dependencies' then
      local j = Graph.read_join(f, x.member)
      if not j or j.done == 'run' then release(f, Records.edit('x', id)) end
    end
  end
  item.offset = item.offset + #ids
  return #ids, #ids < steps
end

-- A member has ended: count that at its children's joins. A failed or canceled member fails the flow, unless it has
-- children and every one of their joins can still be satisfied without it (the failure is absorbed).
function kinds.ended(f, item, steps)
  local x = Records.edit('x', item.id)
  if not x then return 0, true end
  local bad = x.outcome == 'failed' or x.outcome == 'canceled'
  local first = x.walked or 0
  local out, through = Graph.edges(f, 'fo', x.member, first, steps)
  if #out > 0 then x.walked = first + #out end
  for _, edge in ipairs(out) do
    if not parent_ended(f, edge.to, x.outcome == 'completed') and bad then item.unabsorbed = true end
  end
  if not through then return #out, false end
  if bad and (first + #out == 0 or item.unabsorbed) then
    Flows.conclude(f, 'failed', { reason = 'member_' .. x.outcome, data = { member = x.member }, actor = 'flow:' .. f.id })
    Graph.stop(f, 'flow_failed')
  end
  return #out + 1, true
end

-- The join of a waiting member was changed: decide it again.
function kinds.join(f, item)
  local j = Graph.read_join(f, item.member)
  settle(f, item.member, j)
  Graph.write_join(f, item.member, j)
  return 1, true
end

-- Skip the parents that a satisfied join no longer needs.
function kinds.siblings(f, item, steps)
  local parents, through = Graph.edges(f, 'fi', item.member, item.offset, steps)
  for _, edge in ipairs(parents) do skip(edge.id, 'join_satisfied') end
  item.offset = item.offset + #parents
  return #parents, through
end

-- The flow is cancelled: cancel a member that its worker has given back.
function kinds.drop(f, item)
  local x = Records.edit('x', item.id)
  if x and not States.HELD[x.state] and not States.TERMINAL[x.state] then
    Executions.cancel(x, 'flow_cancelled', 'canceled', 'flow:' .. f.id)
  end
  return 1, true
end

-- There is nothing to do before settle_flow, which follows all work of a flow.
function kinds.settle() return 0, true end

-- The flow has ended: skip all members that no worker holds, from `offset` on.
function kinds.sweep(f, item, steps)
  local ids = redis.call('ZRANGE', Keys.of('fl', f.id), item.offset, item.offset + steps - 1)
  for _, id in ipairs(ids) do
    local x = Records.read('x', id)
    if x and not States.HELD[x.state] then skip(id, item.why) end
  end
  item.offset = item.offset + #ids
  return #ids, #ids < steps
end

-- The kinds of work that a flow still has after its end.
local AFTER_END = { sweep = true, drop = true }

-- Do one item of work. Return whether the item is complete.
local function step(item)
  local f = Records.edit('f', item.flow)
  if not f or not (active(f) or AFTER_END[item.kind]) then return true end
  local steps, through = kinds[item.kind](f, item, budget)
  budget = budget - math.max(steps, 1)
  return through
end

-- Return whether a flow ends with its last member: it runs, or it waits but may not run again.
local function ends_with_members(f) return f.status == 'running' or (f.status == 'waiting' and f.cancel_requested) end

-- Store the left-over work of a flow, if any. Otherwise finish the flow if all its members have ended: a failure that
-- was not absorbed would have ended the flow before. left: {packed items, at (when to continue)} or nil.
local function settle_flow(id, left)
  local f = Records.edit('f', id)
  if not f then return end
  if left then
    redis.call('RPUSH', Keys.of('fw', id), unpack(left))
    f.work_at = left.at
  elseif ends_with_members(f) and f.total > 0 and redis.call('EXISTS', Keys.of('fw', id)) == 0 then
    local ended = (f.counts.completed or 0) + (f.counts.failed or 0) + (f.counts.canceled or 0)
    if ended == f.total then Flows.conclude(f, 'finished', { actor = 'flow:' .. f.id }) end
  end
end

-- Do this call's graph work as far as its steps go. An item that fails changes nothing and is tried again later.
function Graph.work()
  if not work[work.at] then return end
  local flows, left = {}, {}
  local function keep(item, packed, at)
    local of = left[item.flow] or { at = at }
    left[item.flow] = of
    of[#of + 1] = packed
    of.at = math.min(of.at, at)
  end
  while work[work.at] do
    local item = work[work.at]
    Undo.set(work, 'at', work.at + 1)
    flows[item.flow] = true
    if budget > 0 then
      local before = pack(item)
      local ok, through = Records.attempt(step, item)
      if not ok then
        Call.fault('the graph of flow ' .. item.flow, through)
        keep(item, before, Call.now + AGAIN_MS)
      elseif not through then
        keep(item, pack(item), Call.now)
      end
    else
      keep(item, pack(item), Call.now)
    end
  end
  for id in pairs(flows) do
    local ok, err = Records.attempt(settle_flow, id, left[id])
    if not ok then Call.fault('flow ' .. id, err) end
  end
end

Call.on_end(Graph.work)

-- The due loop's part: take up left-over work of a flow, if this call has steps left.
function Graph.resume(f)
  f.work_at = Call.now
  if budget <= 0 then return end
  local key = Keys.of('fw', f.id)
  local items = redis.call('LRANGE', key, 0, TAKEN - 1)
  for _, packed in ipairs(items) do Undo.append(work, unpack_msg(packed)) end
  redis.call('LTRIM', key, TAKEN, -1)
  if #items < TAKEN then f.work_at = nil end
  Graph.work()
end
