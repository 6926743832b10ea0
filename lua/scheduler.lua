-- The scheduler's ops: executions come in and are looked at; quotas; flows; what is due. Handing out: hand_out.lua.
local ops = Ops.scheduler

-- create: a new execution.
-- args: id, namespace, digest, idempotency_key, spec {fields of execution.create}, again (an earlier request settled the id)
-- reply: {execution_id, state, duplicate}. errors: invalid_request, idempotency_conflict, execution_not_found (the
-- parent), those of Graph.join (the flow). events: created; flow executions_added.
function ops.create(a)
  local existing = Records.read('x', a.id)
  -- The command came twice: the caller's connection broke before our answer arrived.
  if existing then return { execution_id = a.id, state = existing.state, duplicate = a.again or false } end
  local kept = Idempotency.check('execution', a.namespace, a.idempotency_key, a.digest)
  if kept then
    kept.duplicate = true
    return kept
  end
  Executions.check_spec(a.spec)
  Lists.admit(a.spec.lane or 'default')
  local parent_id = a.spec.parent_id
  local x
  if a.spec.flow_id then
    if parent_id then Errors.invalid('parent_id', 'a member of a flow has none') end
    x = Graph.join(a.spec.flow_id, a.id, a.spec, a.namespace)
  else
    if parent_id then Executions.read(parent_id) end
    x = Executions.create(a.id, a.spec, {
      namespace = a.namespace ~= 'default' and a.namespace or nil, parent_id = parent_id,
    })
  end
  local reply = { execution_id = a.id, state = x.state, duplicate = false }
  Idempotency.keep('execution', a.namespace, a.idempotency_key, a.digest, reply)
  return reply
end

-- get: one execution, whole. args: execution_id. errors: execution_not_found.
function ops.get(a) return Executions.view(Executions.read(a.execution_id)) end

-- wait: as get; an execution that goes on is marked, so that its end gives a `done` hint.
-- args: execution_id. errors: execution_not_found.
function ops.wait(a)
  local x = Executions.read(a.execution_id)
  if not States.TERMINAL[x.state] and not x.waited then Executions.edit(a.execution_id).waited = 1 end
  return Executions.view(x)
end

-- So much of a history is read by one call (bytes); no event is longer.
local HISTORY_CHUNK = 32768

-- history: an execution's next events. args: execution_id, seq (of the event before the first, 0 at the start), offset (bytes:
-- where that ended), limit. reply: packed [offset behind the last, whether there are more, events (as they were kept)…].
-- errors: execution_not_found, invalid_request (no event of that number begins there).
function ops.history(a)
  local x = Executions.read(a.execution_id)
  local key, log = Call.root .. ':h:' .. a.execution_id, x.log or ''
  local kept = redis.call('STRLEN', key)
  local chunk = a.offset < kept and redis.call('GETRANGE', key, a.offset, a.offset + HISTORY_CHUNK - 1) or ''
  -- The end of a history stands in its record.
  if a.offset + #chunk >= kept then chunk = chunk .. string.sub(log, math.max(a.offset - kept, 0) + 1) end
  local at, n = 0, 0
  while n < a.limit and at < #chunk do
    local whole, behind, event = pcall(cmsgpack.unpack_one, chunk, at)
    if not whole then break end
    if type(event) ~= 'table' or event[1] ~= a.seq + n + 1 then break end
    n = n + 1
    at = behind >= 0 and behind or #chunk
  end
  if n == 0 and a.seq < x.seq then Errors.invalid('cursor', 'it is not of this history') end
  return Events.array_header(n + 2) .. pack(a.offset + at) .. pack(a.seq + n < x.seq) .. string.sub(chunk, 1, at)
end

-- list: a page of executions, newest first, in this partition.
-- args: namespace, lane, kind, state, flow_id, tag (a name or name=value; all optional), cursor (an id), limit, budget.
-- reply: {items, cursor}. At most `budget` executions are looked at, whatever the filters; a page may be short.
function ops.list(a)
  Call.settle()
  local keys = {}
  local by_lane = a.lane and not a.tag and not a.flow_id
  if a.tag then
    keys[1] = Lists.tag_key(a.tag)
  elseif by_lane then
    for _, state in ipairs(a.state and { a.state } or Lists.STATES) do keys[#keys + 1] = Lists.state_key(a.lane, state) end
  else
    keys[1] = Lists.all_key()
  end
  local function keep(id)
    local x = Records.read('x', id)
    return x and (not a.kind or x.kind == a.kind) and (not a.namespace or (x.namespace or 'default') == a.namespace)
      and (not a.flow_id or x.flow_id == a.flow_id)
      and (by_lane or ((not a.lane or x.lane == a.lane) and (not a.state or x.state == a.state)))
  end
  local ids, cursor
  if a.flow_id and not a.tag then
    ids, cursor = Lists.backwards(Flows.key('fl', a.flow_id), a.cursor, a.limit, a.budget, keep)
  else
    ids, cursor = Lists.merge('x', keys, a.cursor, a.limit, a.budget, keep)
  end
  return Lists.page(ids, cursor, function(id) return Executions.view(Records.read('x', id)) end)
end

-- quota_create: args: id, max_per_window, window_ms, max_concurrent, namespace, digest, idempotency_key.
-- reply: the quota. errors: idempotency_conflict. events: created.
function ops.quota_create(a)
  local existing = Records.read('quota', a.id)
  if existing then return Quotas.view(existing) end
  local namespace = a.namespace or 'default'
  local kept = Idempotency.check('quota', namespace, a.idempotency_key, a.digest)
  if kept then
    kept.duplicate = true
    return kept
  end
  local reply = Quotas.view(Quotas.create(a.id, a))
  Idempotency.keep('quota', namespace, a.idempotency_key, a.digest, reply)
  return reply
end

-- quota_get: args: quota_id. errors: quota_not_found.
function ops.quota_get(a) return Quotas.view(Quotas.read(a.quota_id)) end

-- quota_delete: limits nothing from now on. args: quota_id. errors: quota_not_found. events: deleted.
function ops.quota_delete(a) return Quotas.delete(a.quota_id) end

-- lanes: a page of lanes. args: cursor, limit. reply: {items: [{lane, status, depth, oldest_ready_at}], now}
function ops.lanes(a)
  Call.settle()
  local items = {}
  for i, lane in ipairs(Lists.lanes(a.cursor, a.limit)) do items[i] = Lists.lane_depth(lane) end
  return { items = items, now = Call.now }
end

-- flow_create: a flow with its whole graph, in one step. args: id, members, edges, joins (checked for cycles and
-- unknown keys), digest, idempotency_key and the fields of flow.create. reply: the flow.
-- errors: invalid_request, idempotency_conflict. events: flow created; execution created for each member.
function ops.flow_create(a)
  local existing = Records.read('f', a.id)
  if existing then return Flows.view(existing) end
  local namespace = a.namespace or 'default'
  local kept = Idempotency.check('flow', namespace, a.idempotency_key, a.digest)
  if kept then
    kept.duplicate = true
    return kept
  end
  for i, m in ipairs(a.members) do
    Executions.check_spec(m, 'members[' .. i - 1 .. '].')
    Lists.admit(m.lane or 'default')
  end
  a.namespace = namespace ~= 'default' and namespace or nil
  local f = Flows.create(a.id, a, 'managed', 'created')
  Graph.create(f, a.members, a.edges, a.joins)
  local reply = Flows.view(f)
  if #a.members > 0 then
    reply.members = {}
    for _, m in ipairs(a.members) do reply.members[m.key] = m.execution_id end
  end
  Idempotency.keep('flow', namespace, a.idempotency_key, a.digest, reply)
  return reply
end

-- flow_start: created → running; its roots become ready. args: flow_id, expected_revision. reply: the flow.
-- errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending, illegal_transition. events: started.
function ops.flow_start(a)
  local f = Flows.edit(a.flow_id, a.expected_revision)
  Flows.move(f, 'running', { event = 'started' })
  Graph.start(f)
  Graph.work()
  return Flows.view(f)
end

-- flow_get: args: flow_id. errors: flow_not_found.
function ops.flow_get(a) return Flows.view(Flows.read(a.flow_id)) end

-- flow_list: newest first. args: owner, status, cursor (an id), limit, budget. reply: {items, cursor}.
function ops.flow_list(a)
  Call.settle()
  local keys = {}
  for _, status in ipairs(a.status and { a.status } or Flows.STATUSES) do
    keys[#keys + 1] = a.owner and Flows.owner_key(a.owner, status) or Flows.status_key(status)
  end
  local ids, cursor = Lists.merge('f', keys, a.cursor, a.limit, a.budget, function(id) return Records.read('f', id) end)
  return Lists.page(ids, cursor, function(id) return Flows.view(Records.read('f', id)) end)
end

-- flow_graph: a slice of a flow's graph. args: flow_id, offset, limit. errors: flow_not_found.
function ops.flow_graph(a) return Graph.slice(Flows.read(a.flow_id), a.offset, a.limit) end

-- What is due for an execution that the scheduler looks after.
local function due_execution(x)
  local now = Call.now
  if States.TERMINAL[x.state] then
    Executions.retire(x)
  elseif x.deadline_at and x.deadline_at <= now then
    -- Only what has begun can fail; what has not is canceled.
    x.failure = { reason = 'the deadline passed', category = 'deadline_exceeded', attempt = x.attempt_index or 0 }
    if x.state == 'running' or x.state == 'retry_wait' or x.state == 'suspended' then
      Executions.expire(x, 'deadline_exceeded')
    else
      Executions.stop(x, 'deadline_exceeded', 'canceled', 'scheduler')
    end
  elseif x.grant_id and x.grant_expires_at <= now then
    Leases.ungrant(x)
  elseif x.state == 'scheduled' and x.wake_at and x.wake_at <= now then
    x.wake_at = nil
    if x.reason == 'time' then States.transition(x, 'ready', { actor = 'scheduler' }) end
  end
end

local RETIRED = 100   -- members that one due call lets leave
local retiring        -- how many more this one may

local function due_flow(f)
  if f.work_at then
    Graph.resume(f)
  elseif Flows.TERMINAL[f.status] then
    retiring = retiring - Flows.retire(f, retiring)
  elseif f.status == 'created' then
    Flows.give_up(f)
  end
end

-- A limit may have room again.
local function due_block(block) Blocks.open(block.id) end

-- due: run_at reached, schedules, grants run out, deadlines, wide fan-outs, retention. args: limit. See Due.run.
function ops.due(a)
  retiring = RETIRED
  return Due.run('scheduler', {
    x = due_execution, f = due_flow, block = due_block, wake = Limits.wake, schedule = Schedules.due,
  }, a.limit)
end

Call.serve('scheduler')
