-- Changes to the graph of a flow that exists. An edge that comes late counts as if it had always been there: if its
-- parent has ended already, that is told at once (of a flow that has not begun: when it begins).
--
-- Needs: Errors, Executions, Flows, Payloads, Records, States.

-- Refuses a change that the flow's state forbids.
-- Errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending, invalid_request (a mirrored flow).
local function open(flow_id, expected_revision)
  local f = Flows.edit(flow_id, expected_revision)
  Flows.check_open(f)
  if f.kind ~= 'managed' then Errors.invalid('flow_id', 'a mirrored flow has no members') end
  return f
end

-- The same, and one that was made from an older view of the graph. Errors: stale_graph_revision {expected, actual}.
function Graph.edit(a)
  local f = open(a.flow_id, a.expected_revision)
  if f.graph_revision ~= a.graph_revision then
    Errors.raise('stale_graph_revision', { expected = a.graph_revision, actual = f.graph_revision })
  end
  return f
end

-- The graph has changed: both revisions, and the event.
function Graph.changed(f, event, data)
  f.graph_revision = f.graph_revision + 1
  data.graph_revision = f.graph_revision
  Flows.mutate(f, event, { data = data })
end

-- The id of a member that must exist. Errors: invalid_request.
function Graph.member(f, key, field)
  local id = Graph.id_of(f, key)
  if not id then Errors.invalid(field, 'there is no member ' .. key) end
  return id
end

-- Refuses keys that are taken, and edges that begin nowhere. Errors: invalid_request.
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

local function tell_ended(f, id)
  local parent = Records.read('x', id)
  if parent and States.TERMINAL[parent.state] then Graph.ended(f, parent) end
end

-- More members, all checked.
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

-- A member that waits for nobody, its key its id: it may join whatever the graph looks like by now.
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

-- A member whose dependencies may still change: one that waits for them. Errors: execution_not_eligible.
function Graph.waiting_member(f, key, field)
  local id = Graph.member(f, key, field)
  local x = Records.read('x', id)
  if x.state ~= 'scheduled' or x.reason ~= 'dependencies' then
    Errors.raise('execution_not_eligible', { execution_id = id, state = x.state, reason = x.reason }, key .. ' does not wait for others any more')
  end
  return x
end

-- An edge between members that exist; that it closes no cycle is the caller's to know. a: from, to, data.
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

-- Another join for a member that waits; what has ended by now counts at once. a: key, policy, k, on_satisfied.
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
