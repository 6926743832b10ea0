-- The mirror-observer's ops for mirrored flows: another system runs such a flow; here it is known by observed steps.
--
-- Keys of a mirrored flow: ft {run id: step}, fr (run ids in the order in which they became known). A step has task,
-- status, result (JSON text), child_session_key, observed_at, published_at, created_at, updated_at, seen (ids of the
-- applied messages). f.counts and f.total count its steps per status, as they count the members of a managed flow.
--
-- Observations come late, twice and out of order. So a message is applied once; an older observed_at never overwrites
-- a newer one; of two statuses of the same instant the one further on wins; a terminal step keeps its status.
--
-- Needs: Call, Dispatch, Errors, Events, FlowWaits, Flows, Hashes, Idempotency, Keys, Payloads, Records.
local ops = Ops.mirror_observer

local RANK = { pending = 1, running = 2, succeeded = 3, failed = 3, cancelled = 3 }
local TERMINAL = 3
-- Message ids kept per step. A redelivery comes seconds later, before dozens of further observations of the step.
local SEEN = 32
-- The step status that each state of a managed flow's member is shown as.
local MEMBER_STATUS = {
  scheduled = 'pending', ready = 'pending', leased = 'running', running = 'running', retry_wait = 'running',
  suspended = 'running', completed = 'succeeded', failed = 'failed', canceled = 'cancelled',
}
local ENDINGS = { succeeded = 'finished', failed = 'failed', cancelled = 'cancelled' }

-- create_mirrored: create a mirrored flow, with status running. args: id, digest, idempotency_key, completion (manual |
-- all_steps | on_task), completion_task, controller_id, goal, owner, requester_origin, current_step, state, namespace.
-- reply: the flow. errors: idempotency_conflict. events: flow created.
function ops.create_mirrored(a)
  local existing = Records.read('f', a.id)
  -- The command came twice: the service's connection broke before the first reply arrived.
  if existing then return Flows.view(existing) end
  local namespace = a.namespace
  return Idempotency.once('flow_mirrored', namespace, a, function()
    a.namespace = namespace ~= 'default' and namespace or nil
    return Flows.view(Flows.create(a.id, a, 'mirrored', 'running'))
  end)
end

local function view(f, run_id, step, applied)
  return {
    flow_id = f.id, run_id = run_id, runtime = 'mirrored', task = step.task, status = step.status, result = step.result,
    child_session_key = step.child_session_key, observed_at = step.observed_at, created_at = step.created_at,
    updated_at = step.updated_at, applied = applied,
  }
end

local function contains(list, value)
  for _, item in ipairs(list or {}) do
    if item == value then return true end
  end
  return false
end

-- Judge an observation against the known step. Return nil if it is news, else 'duplicate' or the reason to drop it.
local function judge(step, a, at)
  if a.message_id and contains(step.seen, a.message_id) then return 'duplicate' end
  local ended = RANK[step.status] == TERMINAL
  -- The same observation again. A terminal status without observed_at is taken as the known one.
  if (at == step.observed_at or ended and not a.observed_at) and a.status == step.status and a.task == step.task
    and (not a.result or a.result == step.result)
    and (not a.child_session_key or a.child_session_key == step.child_session_key) then
    return 'duplicate'
  end
  if ended and a.status ~= step.status then return 'step_terminal' end
  if at < step.observed_at then return 'stale' end
  if a.published_at and step.published_at then
    -- Observations without observed_at are ordered by the time of publishing, even if one is delivered late.
    if a.published_at < step.published_at then return 'stale' end
  elseif at == step.observed_at and RANK[a.status] < RANK[step.status] then
    return 'stale'
  end
end

local function remember(step, message_id)
  if not message_id then return end
  step.seen = step.seen or {}
  table.insert(step.seen, message_id)
  if #step.seen > SEEN then table.remove(step.seen, 1) end
end

-- End the flow if its completion rule says so. With all_steps the flow ends once all known steps have ended: a runner
-- must announce its steps (as pending) before the first one ends.
local function complete(f, step)
  local ending, why
  if f.completion == 'on_task' and step.task == f.completion_task then
    ending, why = ENDINGS[step.status], 'step_' .. step.status
  elseif f.completion == 'all_steps' then
    local failed = f.counts.failed or 0
    if (f.counts.succeeded or 0) + failed + (f.counts.cancelled or 0) == f.total then
      ending = failed > 0 and 'failed' or 'finished'
      why = failed > 0 and 'step_failed' or nil
    end
  end
  if not ending then return end
  -- The other system does not ask whether its flow waits here.
  local waits = f.status == 'waiting' and ending == 'finished' and not f.cancel_requested
  if waits then FlowWaits.resume(f, 'completed', 'flow:' .. f.id) end
  Flows.conclude(f, ending, { reason = why, actor = 'flow:' .. f.id })
end

-- Apply one observation of a step. a: fields of flow.observe; for a published message also message_id and published_at
-- (by JetStream's clock, if there is no observed_at). Return the flow, the step and whether anything changed; nil if
-- the flow is over. Errors: flow_not_found, invalid_request (a managed flow).
local function observe(a)
  local f = Flows.edit(a.flow_id)
  if f.kind ~= 'mirrored' then Errors.invalid('flow_id', 'a managed flow has members instead of observed steps') end
  local steps = Keys.of('ft', f.id)
  local packed = Hashes.get(steps, a.run_id)
  local step = packed and unpack_msg(packed)
  local at = a.observed_at or Call.now
  local verdict = step and judge(step, a, at)
  local over = Flows.TERMINAL[f.status]
  if verdict ~= 'duplicate' and (verdict or over) then
    Events.emit('flow', f, 'observation_dropped', {
      reason = verdict or 'flow_terminal', data = { run_id = a.run_id, task = a.task, status = a.status, observed_at = at },
    })
    if over then return nil end
  end
  if verdict then return f, step, false end
  if not step then
    step = { created_at = Call.now }
    f.total = f.total + 1
    redis.call('ZADD', Keys.of('fr', f.id), f.total, a.run_id)
  else
    f.counts[step.status] = f.counts[step.status] - 1
  end
  local from = step.status
  step.task, step.status, step.observed_at, step.updated_at = a.task, a.status, at, Call.now
  -- A field that the observation leaves out keeps its known value.
  step.result = a.result or step.result
  step.child_session_key = a.child_session_key or step.child_session_key
  step.published_at = a.published_at or step.published_at
  remember(step, a.message_id)
  f.counts[a.status] = (f.counts[a.status] or 0) + 1
  Hashes.set(steps, a.run_id, pack(step))
  Flows.mutate(f, 'observed', { data = { run_id = a.run_id, task = a.task, from = from, to = a.status, observed_at = at } })
  if RANK[a.status] == TERMINAL then complete(f, step) end
  return f, step, true
end

-- Return the error reply for a flow that is over. It is not raised: that would undo the observation_dropped event.
local function over(flow_id)
  return { error = { code = 'already_terminal', detail = { status = Flows.read(flow_id).status } } }
end

-- observe: apply an observation of a step. args: flow_id, run_id, task, status, result (JSON text), child_session_key,
-- observed_at. reply: the step, with applied (false: nothing changed). errors: flow_not_found, invalid_request (a
-- managed flow), already_terminal. events: flow observed, or observation_dropped with its reason; the flow's end.
function ops.observe(a)
  local f, step, changed = observe(a)
  return f and view(f, a.run_id, step, changed) or over(a.flow_id)
end

-- apply: as observe, for a published message. args: flow_id, run_id, task, status, result, child_session_key,
-- observed_at, message_id, published_at. reply: {applied}. errors, events: as observe.
function ops.apply(a)
  local f, _, changed = observe(a)
  return f and { applied = changed } or over(a.flow_id)
end

-- drop: record that a message published to a flow was not an observation. args: flow_id, reason.
-- errors: flow_not_found. events: flow observation_dropped.
function ops.drop(a)
  Flows.read(a.flow_id)
  Events.emit('flow', Records.edit('f', a.flow_id), 'observation_dropped', { reason = a.reason })
end

-- Return a managed flow's member in the form of a step.
local function member_step(f, x)
  return {
    flow_id = f.id, run_id = x.id, runtime = 'managed', task = x.member, status = MEMBER_STATUS[x.state],
    result = x.state == 'completed' and Payloads.of(x, 'result') or nil, observed_at = x.updated_at,
    created_at = x.created_at, updated_at = x.updated_at,
  }
end

-- steps: return a slice of a flow's steps, oldest first. args: flow_id, after (position, 0 at first), limit, bytes (the
-- slice ends once its results have this many). reply: {items, after (nil at the end)}. errors: flow_not_found.
function ops.steps(a)
  local f = Flows.read(a.flow_id)
  local managed = f.kind == 'managed'
  local order = Keys.of(managed and 'fl' or 'fr', f.id)
  local found = redis.call('ZRANGE', order, '(' .. a.after, '+inf', 'BYSCORE', 'LIMIT', 0, a.limit, 'WITHSCORES')
  local items, bytes, after = {}, 0, nil
  for i = 1, #found, 2 do
    local id, item = found[i], nil
    if managed then
      local x = Records.read('x', id)
      item = x and member_step(f, x)
    else
      local packed = Hashes.get(Keys.of('ft', f.id), id)
      item = packed and view(f, id, unpack_msg(packed))
    end
    items[#items + 1] = item or nil
    bytes = bytes + (item and item.result and #item.result or 0)
    after = tonumber(found[i + 1])
    if bytes >= a.bytes then return { items = items, after = after } end
  end
  return { items = items, after = #found == a.limit * 2 and after or nil }
end

Dispatch.serve('mirror_observer')
