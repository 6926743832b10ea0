-- What an ending sets in motion in a flow's graph: joins count, children run or are skipped, the flow ends.
--
-- A member's ending is told to its children edge by edge: x.walked says how many of its out edges know, so that an edge
-- which comes later is told too, and none twice.
--
-- Work is a list of small items, done before the call ends. What a wide fan-out leaves past the budget goes on in
-- the scheduler's due loop, so that no call holds Valkey for long.

local BUDGET = 150
local work        -- items of this call: {flow, kind, …}

function Graph.begin() work = {} end

function Graph.push(f, item)
  item.flow = f.id
  work[#work + 1] = item
end

-- Whether endings still move the graph on.
function Graph.active(f) return f.status == 'running' or f.status == 'waiting' end

local push, active = Graph.push, Graph.active

-- Releases the members that wait for nobody.
function Graph.start(f) push(f, { kind = 'roots', offset = 0 }) end

-- A member has ended: those behind it must hear of it.
function Graph.ended(f, x) push(f, { kind = 'ended', id = x.id }) end

-- A flow that ends before its members: nothing more begins, what runs already may end.
function Graph.stop(f, why) push(f, { kind = 'sweep', offset = 0, why = why }) end

-- States.transition tells of every member's move.
function Graph.member_moved(x, from, to)
  local f = Records.edit('f', x.flow_id)
  if not f then return end
  f.counts[from] = (f.counts[from] or 0) - 1
  f.counts[to] = (f.counts[to] or 0) + 1
  if States.TERMINAL[to] and x.counted then
    -- A cancelled flow waits for this one to stop.
    x.counted = nil
    f.unstopped = f.unstopped > 1 and f.unstopped - 1 or nil
    if not f.unstopped and not f.cancel_next then Call.hint_item('flow_done', f.id) end
  end
  if States.TERMINAL[to] and active(f) then Graph.ended(f, x) end
end

-- Stops a member that nobody needs any more: at once, and its worker is told.
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

-- What a join's count means for its member.
local function settle(f, key, j)
  if j.done then return end
  local id = redis.call('HGET', Flows.key('fm', f.id), key)
  if satisfied(j) then
    j.done = 'run'
    local child = Records.edit('x', id)
    if child and child.state == 'scheduled' and child.reason == 'dependencies' then
      Executions.release(child, 'flow:' .. f.id)
    end
    if j.on == 'cancel_remaining' then push(f, { kind = 'siblings', member = key, offset = 0 }) end
  elseif impossible(j) then
    j.done = 'skip'
    skip(id, 'dependency_not_met')
  end
end

-- One parent of `key` ended. Returns whether the join can do without it.
local function parent_ended(f, key, ok)
  local joins = Flows.key('fj', f.id)
  local j = unpack_msg(redis.call('HGET', joins, key))
  if ok then j.ok = j.ok + 1 else j.dead = j.dead + 1 end
  settle(f, key, j)
  redis.call('HSET', joins, key, pack(j))
  return j.done ~= 'skip'
end

-- The kinds of work. Each does at most `budget` steps; returns how many, and whether it is through.
local kinds = {}

function kinds.roots(f, item, budget)
  local ids = redis.call('ZRANGE', Flows.key('fl', f.id), item.offset, item.offset + budget - 1)
  for _, id in ipairs(ids) do
    local x = Records.edit('x', id)
    if x and States.TERMINAL[x.state] then
      -- Cancelled before the flow began: its children must hear of it.
      Graph.ended(f, x)
    elseif x and x.reason == 'dependencies' and redis.call('HEXISTS', Flows.key('fj', f.id), x.member) == 0 then
      Executions.release(x, 'flow:' .. f.id)
    end
  end
  item.offset = item.offset + #ids
  return #ids, #ids < budget
end

-- A failure is absorbed when every join behind it can still do without it.
function kinds.ended(f, item, budget)
  local x = Records.edit('x', item.id)
  if not x then return 0, true end
  local bad = x.outcome == 'failed' or x.outcome == 'canceled'
  local out = Graph.read(f, 'fo', x.member) or {}
  local first = x.walked or 0
  local last = math.min(first + budget, #out)
  if last > first then x.walked = last end
  for i = first + 1, last do
    if not parent_ended(f, out[i].to, x.outcome == 'completed') and bad then item.unabsorbed = true end
  end
  if last < #out then return last - first, false end
  if bad and (#out == 0 or item.unabsorbed) then
    Flows.conclude(f, 'failed', { reason = 'member_' .. x.outcome, data = { member = x.member }, actor = 'flow:' .. f.id })
    Graph.stop(f, 'flow_failed')
  end
  return last - first + 1, true
end

-- The join of a member that waits was changed.
function kinds.join(f, item)
  local joins = Flows.key('fj', f.id)
  local j = unpack_msg(redis.call('HGET', joins, item.member))
  settle(f, item.member, j)
  redis.call('HSET', joins, item.member, pack(j))
  return 1, true
end

-- The parents that a satisfied join no longer needs.
function kinds.siblings(f, item, budget)
  local parents = Graph.read(f, 'fi', item.member) or {}
  local last = math.min(item.offset + budget, #parents)
  for i = item.offset + 1, last do skip(parents[i].id, 'join_satisfied') end
  local steps = last - item.offset
  item.offset = last
  return steps, last == #parents
end

-- An ended flow begins nothing more.
function kinds.sweep(f, item, budget)
  local ids = redis.call('ZRANGE', Flows.key('fl', f.id), item.offset, item.offset + budget - 1)
  for _, id in ipairs(ids) do
    local x = Records.read('x', id)
    if x and not States.HELD[x.state] then skip(id, item.why) end
  end
  item.offset = item.offset + #ids
  return #ids, #ids < budget
end

-- A flow whose members have all ended, each well or absorbed, is finished.
local function finish(f)
  if f.status ~= 'running' or f.total == 0 then return end
  local ended = (f.counts.completed or 0) + (f.counts.failed or 0) + (f.counts.canceled or 0)
  if ended == f.total then Flows.conclude(f, 'finished', { actor = 'flow:' .. f.id }) end
end

-- Does the work of this call; what goes past the budget is kept for the due loop.
function Graph.work()
  local budget, at = BUDGET, 1
  local flows, left = {}, {}
  while work[at] do
    local item = work[at]
    at = at + 1
    local f = Records.edit('f', item.flow)
    if f and (active(f) or item.kind == 'sweep') then
      flows[f.id] = f
      local through = false
      if budget > 0 then
        local steps
        steps, through = kinds[item.kind](f, item, budget)
        budget = budget - math.max(steps, 1)
      end
      if not through then
        left[f.id] = left[f.id] or {}
        table.insert(left[f.id], pack(item))
      end
    end
  end
  work = {}
  for id, f in pairs(flows) do
    if left[id] then
      redis.call('RPUSH', Flows.key('fw', id), unpack(left[id]))
      f.work_at = Call.now
    elseif redis.call('EXISTS', Flows.key('fw', id)) == 0 then
      finish(f)
    end
  end
end

-- The due loop's share: takes up what was left over.
function Graph.resume(f)
  f.work_at = nil
  for _, packed in ipairs(redis.call('LRANGE', Flows.key('fw', f.id), 0, 49)) do
    work[#work + 1] = unpack_msg(packed)
  end
  redis.call('LTRIM', Flows.key('fw', f.id), 50, -1)
  if redis.call('EXISTS', Flows.key('fw', f.id)) == 1 then f.work_at = Call.now end
end
