-- Changes to the graph of an existing flow. An edge that is added late counts as if it had always been there: if its
-- parent has already ended, the child's join counts that at once (in a flow that has not begun: when the flow begins).
--
-- Needs: Errors, Executions, Flows, Payloads, Records, States.

-- Return a flow for a change of its graph. Refuse if the flow's state forbids changes.
-- Errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending, invalid_request (a mirrored flow).
local function open(flow_id, expected_revision)
  local f = Flows.edit(flow_id, expected_revision)
  Flows.check_open(f)
  if f.kind ~= 'managed' then Errors.invalid('flow_id', 'a mirrored flow has no members') end
  return f
end

-- Like `open`, and refuse a change that was made from an older view of the graph.
-- Errors: those of `open`, stale_graph_revision {expected, actual}.
function Graph.edit(a)
  local f = open(a.flow_id, a.expected_revision)
  if f.graph_revision ~= a.graph_revision then
    Errors.raise('stale_graph_revision', { expected = a.graph_revision, actual = f.graph_revision })
  end
  return f
end

-- The graph has changed: count up the graph revision and the flow's revision, and emit the event.
function Graph.changed(f, event, data)
  f.graph_revision = f.graph_revision + 1
  data.graph_revision = f.graph_revision
  Flows.mutate(f, event, { data = data })
end

-- Return the execution id of a member that must exist. Errors: invalid_request.
function Graph.member(f, key, field)
  local id = Graph.id_of(f, key)
  if not id then Errors.invalid(field, 'there is no member ' .. key) end
  return id
end

-- Refuse new members whose keys are taken, and edges from unknown members. Errors: invalid_request.
function Graph.check_more(f, members, edges)
  local new = {}
  for i, m in ipairs(members) do
    if Graph.id_of(f, m.key) then Errors.invalid('members[' .. i - 1 .. '].key', 'there is a member ' .. m.key .. ' already') end
    new[m.key] = true
  end
  for i, e in ipairs(edges) do
    if not new[e.from] then Graph.member(f, e.from, 'edges[' .. i - 1 .. '].from') end
  end
end

-- If this member has already ended, tell its children behind new edges.
local function tell_ended(f, id)
  local parent = Records.read('x', id)
  if parent and States.TERMINAL[parent.state] then Graph.ended(f, parent) end
end

-- Add members, edges and joins, all checked, to a flow.
function Graph.add(f, members, edges, joins)
  local before = f.total
  Graph.create(f, members, edges, joins)
  if not Graph.active(f) then return end
  local told = {}
  for _, e in ipairs(edges) do
    if not told[e.from] then
      told[e.from] = true
      tell_ended(f, Graph.id_of(f, e.from))
    end
  end
  Graph.push(f, { kind = 'roots', offset = before })
end

-- Add one member without edges, whose key is its id, and return its execution. This works on any revision of the graph.
-- Errors: those of `open`, invalid_request (another namespace than the flow's).
function Graph.join(flow_id, id, spec, namespace)
  local f = open(flow_id)
  if namespace ~= (f.namespace or 'default') then Errors.invalid('namespace', "is not the flow's") end
  spec.key, spec.execution_id = id, id
  Graph.changed(f, 'executions_added', { members = 1, edges = 0 })
  Graph.add(f, { spec }, {}, {})
  Graph.work()
  return Executions.read(id)
end

-- Return a member that still waits for its dependencies, so that they may change.
-- Errors: invalid_request, execution_not_eligible.
function Graph.waiting_member(f, key, field)
  local id = Graph.member(f, key, field)
  local x = Records.read('x', id)
  if x.state ~= 'scheduled' or x.reason ~= 'dependencies' then
    Errors.raise('execution_not_eligible', { execution_id = id, state = x.state, reason = x.reason }, key .. ' does not wait for others any more')
  end
  return x
end

-- Add an edge between existing members. The caller checks that the edge closes no cycle. a: from, to, data.
-- Errors: invalid_request, execution_not_eligible.
function Graph.connect(f, a)
  local from_id = Graph.member(f, a.from, 'from')
  local child = Graph.waiting_member(f, a.to, 'to')
  for _, edge in ipairs((Graph.edges(f, 'fi', a.to, 0))) do
    if edge.from == a.from then Errors.invalid('from', a.from .. ' leads to ' .. a.to .. ' already') end
    if a.data and edge.data == a.data then Errors.invalid('data', 'another edge gives ' .. a.to .. ' the key ' .. a.data) end
  end
  local input = a.data and Payloads.of(child, 'input')
  if input and not string.find(input, '^%s*{') then Errors.invalid('data', 'the input of ' .. a.to .. ' is not an object') end
  local join = Graph.read_join(f, a.to) or { policy = 'all_of', n = 0, ok = 0, dead = 0 }
  join.n = join.n + 1
  join.data = join.data or a.data and true
  Graph.add_edges(f, 'fo', a.from, { { to = a.to, data = a.data } })
  Graph.add_edges(f, 'fi', a.to, { { from = a.from, id = from_id, data = a.data } })
  Graph.write_join(f, a.to, join)
  if Graph.active(f) then tell_ended(f, from_id) end
end

-- Change the join of a waiting member. Parents that have already ended count at once. a: key, policy, k, on_satisfied.
-- Errors: invalid_request, execution_not_eligible.
function Graph.set_join(f, a)
  Graph.waiting_member(f, a.key, 'key')
  local join = Graph.read_join(f, a.key)
  if not join then Errors.invalid('key', 'no edge leads to ' .. a.key) end
  if a.k and a.k > join.n then Errors.invalid('k', 'k is ' .. a.k .. ', but only ' .. join.n .. ' edges lead to ' .. a.key) end
  join.policy, join.k, join.on = a.policy, a.k, a.on_satisfied
  Graph.write_join(f, a.key, join)
  if Graph.active(f) then Graph.push(f, { kind = 'join', member = a.key }) end
end
