-- The scheduler's ops that change an existing flow: its state, its end, its graph.
--
-- Needs: Executions, Flows, Graph, Idempotency, Lanes.
local ops = Ops.scheduler

-- flow_state: return a flow's state, so that Python can merge a JSON patch into it. args: flow_id.
-- reply: {state, revision, now}. errors: flow_not_found, already_terminal, cancel_pending.
function ops.flow_state(a) return Flows.state_of(a.flow_id) end

-- flow_update_state: args: flow_id, expected_revision, state (JSON text, already merged; nil: unchanged), next_step.
-- reply: the flow. errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending.
-- events: flow state_updated.
function ops.flow_update_state(a)
  local f = Flows.edit(a.flow_id, a.expected_revision)
  Flows.check_open(f)
  Flows.put_state(f, a)
  Flows.mutate(f, 'state_updated', { data = { current_step = f.current_step, state = a.state ~= nil } })
  return Flows.view(f)
end

-- flow_end: the controller ends the flow. Members that have not begun are skipped; running members may finish.
-- args: flow_id, to (finished | failed), reason, expected_revision, state, next_step (as above). reply: the flow.
-- errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending, illegal_transition.
-- events: flow finished or failed; canceled for members.
function ops.flow_end(a)
  local f = Flows.edit(a.flow_id, a.expected_revision)
  Flows.check(f, a.to)
  Flows.put_state(f, a)
  Flows.move(f, a.to, { reason = a.reason })
  if f.total > 0 and f.kind == 'managed' then
    Graph.stop(f, 'flow_' .. a.to)
    Graph.work()
  end
  return Flows.view(f)
end

-- flow_add: add members in one step. args: flow_id, graph_revision, expected_revision, members, edges, joins (checked
-- by the service, as for flow_create), digest, idempotency_key. reply: the flow, and the ids of the new members.
-- errors: those of Graph.edit and Graph.check_more, idempotency_conflict, execution_not_eligible (a draining lane).
-- events: flow executions_added; execution created for each.
function ops.flow_add(a)
  return Idempotency.once('flow_add', a.flow_id, a, function()
    local f = Graph.edit(a)
    Graph.check_more(f, a.members, a.edges)
    for i, m in ipairs(a.members) do
      Executions.check_spec(m, 'members[' .. i - 1 .. '].')
      Lanes.admit(m.lane or 'default')
    end
    Graph.changed(f, 'executions_added', { members = #a.members, edges = #a.edges })
    Graph.add(f, a.members, a.edges, a.joins)
    Graph.work()
    local reply = Flows.view(f)
    reply.members = {}
    for _, m in ipairs(a.members) do reply.members[m.key] = m.execution_id end
    return reply
  end)
end

-- flow_connect: add an edge. args: flow_id, graph_revision (for which the service has checked that the edge closes no
-- cycle), expected_revision, from, to, data. reply: the flow.
-- errors: those of Graph.edit and Graph.connect. events: flow dependency_added.
function ops.flow_connect(a)
  local f = Graph.edit(a)
  Graph.connect(f, a)
  Graph.changed(f, 'dependency_added', { from = a.from, to = a.to, data = a.data })
  Graph.work()
  return Flows.view(f)
end

-- flow_set_join: change a member's join.
-- args: flow_id, graph_revision, expected_revision, key, policy, k, on_satisfied.
-- reply: the flow. errors: those of Graph.edit and Graph.set_join. events: flow join_set.
function ops.flow_set_join(a)
  local f = Graph.edit(a)
  Graph.set_join(f, a)
  Graph.changed(f, 'join_set', { member = a.key, policy = a.policy, k = a.k, on_satisfied = a.on_satisfied })
  Graph.work()
  return Flows.view(f)
end
