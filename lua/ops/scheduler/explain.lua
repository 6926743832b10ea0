-- The facts about why an execution does not run, as far as its own partition knows them. The scheduler service makes a
-- sentence of the facts (services/penstock_scheduler/explaining/sentences.py); it asks other partitions about limits
-- that are kept there, and for the number of executions ahead.
--
-- Needs: Blocks, Call, Executions, Graph, Keys, Lanes, Limits, Queues, Records.

local ops = Ops.scheduler

local PARENTS = 20      -- unmet parents that are listed; any others are only counted
local LOOKED_AT = 500   -- parents that are read to find those

-- Add the parents that a member of a flow still waits for.
local function dependencies(x, facts)
  local f = Records.read('f', x.flow_id)
  if not f then return end
  facts.flow_status = f.status
  local j = Graph.read_join(f, x.member)
  if not j then return end
  local parents = {}
  for _, edge in ipairs((Graph.edges(f, 'fi', x.member, 0, LOOKED_AT))) do
    local parent = Records.read('x', edge.id)
    if parent and parent.state ~= 'completed' and #parents < PARENTS then
      parents[#parents + 1] = { key = edge.from, execution_id = edge.id, state = parent.state, reason = parent.reason, outcome = parent.outcome }
    end
  end
  facts.parents, facts.unmet = parents, j.n - j.ok
  facts.join = { policy = j.policy, k = j.k, n = j.n, ok = j.ok, dead = j.dead }
end

-- Add what keeps a ready execution from being handed out: its lane, flow, grant, queue and limits.
local function queue(x, facts)
  facts.lane_status = Lanes.status(x.lane)
  facts.caps = x.caps
  local f = x.flow_id and Records.read('f', x.flow_id)
  if f and (f.status == 'cancelled' or f.status == 'waiting') then facts.flow_status, facts.flow_wait = f.status, f.wait end
  if x.grant_id then
    facts.grant = { worker_id = x.grant_worker, expires_at = x.grant_expires_at }
  else
    facts.ahead = not x.aside and redis.call('ZRANK', Queues.key(x), x.id) or nil
    facts.queue = {
      lane = x.lane, caps = x.caps, kind = Queues.kind(x), fairness_key = x.fairness_key, limit = x.limit, score = Queues.score(x),
    }
  end
  if not x.limit then return end
  local block = Blocks.read(x.limit)
  if block then facts.block = { code = block.code, reason = block.reason, until_at = block.until_at } end
  facts.limits, facts.remote = {}, Limits.remote(x.limit)
  for token in Limits.tokens(x.limit) do
    if Limits.is_local(token) then facts.limits[#facts.limits + 1] = Limits.describe(token) end
  end
end

local function suspension(x, facts)
  facts.wake_at, facts.on_timeout = x.wake_at, x.on_timeout
  facts.hold, facts.park = x.hold, x.park and { waits = x.park.n or 1, any = x.park.any or false }
  facts.children_open, facts.budget_id = x.children_open, x.held_by and x.held_by.budget_id
  local w = x.waiting_on and Records.read('w', x.waiting_on)
  for id in pairs(x.park and x.waitpoints or {}) do
    local each = Records.read('w', id)
    if each and each.entry then
      local listening = table_at(facts, 'waitpoints')
      listening[#listening + 1] = { waitpoint_id = id, key = each.key, entry = each.entry, condition = each.condition, tally = next(each.tally) and each.tally }
    end
  end
  if w then
    facts.waitpoint = { waitpoint_id = w.id, key = w.key, condition = w.condition, tally = next(w.tally) and w.tally, n = w.n }
  end
end

local function facts_of(x)
  Records.settle()
  local view = Executions.view(x)
  local facts = {
    now = Call.now, execution_id = x.id, state = x.state, reason = view.reason, outcome = x.outcome, kind = x.kind,
    lane = x.lane, namespace = view.namespace, failure = x.failure, attempt_index = view.attempt_index,
    max_attempts = view.max_attempts, reclaims = view.reclaims, max_reclaims = view.max_reclaims,
    cancel_requested = view.cancel_requested, ready_at = x.ready_at, started_at = x.started_at, finished_at = x.finished_at,
    deadline_at = x.deadline_at, lease = view.lease, flow_id = x.flow_id, pinned = x.pinned,
    ending = x.ending and x.ending.to,
  }
  if x.state == 'scheduled' and x.reason == 'dependencies' and x.flow_id then
    dependencies(x, facts)
  elseif x.state == 'scheduled' and x.reason == 'dependencies' then
    facts.unique_key = x.unique_key
  elseif x.state == 'scheduled' or x.state == 'retry_wait' then
    facts.wake_at = x.wake_at
  elseif x.state == 'ready' then
    queue(x, facts)
  elseif x.state == 'suspended' then
    suspension(x, facts)
  elseif x.lease_id then
    facts.stop_by = x.stopping and x.stopping.until_at
    facts.attempt_expires_at = x.attempt_expires_at
  end
  return facts
end

-- explain: return the facts about what an execution waits for. args: execution_id. reply: see facts_of.
-- errors: execution_not_found. events: none.
function ops.explain(a) return facts_of(Executions.read(a.execution_id)) end

-- ahead: count the executions in a queue of this partition that come before a score. args: lane, caps, kind,
-- fairness_key, limit, score (all from `queue` in an execution's facts). reply: {ahead}. errors, events: none.
function ops.ahead(a)
  Records.settle()
  local key = Keys.queue(a.lane, a.caps or '', a.kind, a.fairness_key or '', a.limit)
  return { ahead = redis.call('ZCOUNT', key, '-inf', '(' .. string.format('%.17g', a.score)) }
end

-- limit_use: return the use of a limit token that is kept here. args: token. reply: {kind, id, running, max_concurrent,
-- in_window, max_per_window, window_ms, retry_after_ms}; for a budget {kind, id, exhausted, dimensions, reset_at}.
-- errors, events: none.
function ops.limit_use(a)
  Records.settle()
  return Limits.describe(a.token)
end
