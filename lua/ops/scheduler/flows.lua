-- The scheduler's ops that create, start and read flows.
--
-- Needs: Executions, Flows, Graph, Idempotency, Keys, Lanes, Lists, Records.
local ops = Ops.scheduler

-- flow_create: create a flow with its graph in one step. args: id, members, edges, joins (the service has checked them
-- for cycles and unknown keys), digest, idempotency_key, controller_id, goal, owner, requester_origin, current_step,
-- state, namespace. reply: the flow, with the ids of its members.
-- errors: invalid_request, idempotency_conflict. events: flow created; execution created for each member.
function ops.flow_create(a)
  local existing = Records.read('f', a.id)
  if existing then return Flows.view(existing) end
  local namespace = a.namespace
  return Idempotency.once('flow', namespace, a, function()
    for i, m in ipairs(a.members) do
      Executions.check_spec(m, 'members[' .. i - 1 .. '].')
      Lanes.admit(m.lane or 'default')
    end
    a.namespace = namespace ~= 'default' and namespace or nil
    local f = Flows.create(a.id, a, 'managed', 'created')
    Graph.create(f, a.members, a.edges, a.joins)
    local reply = Flows.view(f)
    if #a.members > 0 then
      reply.members = {}
      for _, m in ipairs(a.members) do reply.members[m.key] = m.execution_id end
    end
    return reply
  end)
end

-- flow_start: created → running; the root members become ready. args: flow_id, expected_revision. reply: the flow.
-- errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending, illegal_transition. events: started.
function ops.flow_start(a)
  local f = Flows.edit(a.flow_id, a.expected_revision)
  Flows.check(f, 'running', 'created')
  Flows.move(f, 'running', { event = 'started' })
  Graph.start(f)
  Graph.work()
  return Flows.view(f)
end

-- flow_get: args: flow_id. errors: flow_not_found.
function ops.flow_get(a) return Flows.view(Flows.read(a.flow_id)) end

-- flow_list: list flows, newest first. args: owner, status, cursor (an id), limit, budget. reply: {items, cursor}.
function ops.flow_list(a)
  Records.settle()
  local keys = {}
  for _, status in ipairs(a.status and { a.status } or Flows.STATUSES) do
    keys[#keys + 1] = a.owner and Keys.flows_of(a.owner, status) or Keys.flows(status)
  end
  local ids, cursor = Lists.merge('f', keys, a.cursor, a.limit, a.budget, function(id) return Records.read('f', id) end)
  return Lists.page(ids, cursor, function(id) return Flows.view(Records.read('f', id)) end)
end

-- flow_graph: return a slice of a flow's graph. args: flow_id, offset, limit. errors: flow_not_found.
function ops.flow_graph(a) return Graph.slice(Flows.read(a.flow_id), a.offset, a.limit) end
