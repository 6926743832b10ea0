-- The graph of a managed flow: its members, edges and joins, created and read. flow/work.lua acts when a member ends;
-- flow/changes.lua changes the graph later.
--
-- Keys of one flow: fm {member key: execution id}; fl (execution ids in order); fo, fi (flow/edges.lua); fj {member
-- key: its join}; fw (work left over). A join: policy, k, on (let_run | cancel_remaining), n (number of in edges), data
-- (true if an in edge passes a result on), ok (completed parents), dead (parents that ended otherwise), done ('run' |
-- 'skip'; nil: undecided).
--
-- Needs: Call, Executions, Hashes, Keys, Payloads, Records.

-- Return the execution id of a member, or nil when there is no such member.
function Graph.id_of(f, key) return Hashes.get(Keys.of('fm', f.id), key) end

-- Return the join of a member, or nil when the member has no parents.
function Graph.read_join(f, key)
  local packed = Hashes.get(Keys.of('fj', f.id), key)
  return packed and unpack_msg(packed) or nil
end

function Graph.write_join(f, key, join) Hashes.set(Keys.of('fj', f.id), key, pack(join)) end

-- Create members of a new or an existing flow. members: {key, execution_id, …spec}; edges: {from, to (one of
-- `members`), data}; joins {key: {policy, k, on_satisfied}}, all checked by the caller. The members wait for their
-- release (flow/work.lua).
function Graph.create(f, members, edges, joins)
  if #members == 0 then return end
  local ids, out, incoming, new, order = {}, {}, {}, {}, {}
  for i, m in ipairs(members) do
    ids[m.key] = m.execution_id
    order[#order + 1] = f.total + i
    order[#order + 1] = m.execution_id
    out[m.key], incoming[m.key], new[m.key] = {}, {}, true
    Hashes.set(Keys.of('fm', f.id), m.key, m.execution_id)
  end
  Call.bulk('ZADD', order, Keys.of('fl', f.id))
  for _, e in ipairs(edges) do
    if not out[e.from] then
      ids[e.from] = Graph.id_of(f, e.from)
      out[e.from] = {}
    end
    out[e.from][#out[e.from] + 1] = { to = e.to, data = e.data }
    local to = incoming[e.to]
    to[#to + 1] = { from = e.from, id = ids[e.from], data = e.data }
    to.data = to.data or e.data ~= nil
  end
  for key, edges_out in pairs(out) do Graph.add_edges(f, 'fo', key, edges_out, new[key]) end
  for _, m in ipairs(members) do
    local key = m.key
    local edges_in = incoming[key]
    if #edges_in > 0 then
      local join = joins[key] or {}
      Graph.add_edges(f, 'fi', key, edges_in, true)
      Graph.write_join(f, key, {
        policy = join.policy or 'all_of', k = join.k, on = join.on_satisfied, n = #edges_in, data = edges_in.data or nil,
        ok = 0, dead = 0,
      })
    end
  end
  f.total = f.total + #members
  f.counts.scheduled = (f.counts.scheduled or 0) + #members
  for _, m in ipairs(members) do
    Executions.create(m.execution_id, m, { flow_id = f.id, member = m.key, namespace = f.namespace, held = true })
  end
end

-- Return the parents' results that edges pass on to this member: [[key, result (JSON text)]], or nil for none.
function Graph.inputs(x)
  local f, inputs = { id = x.flow_id }, {}
  local join = Graph.read_join(f, x.member)
  if not join or not join.data then return nil end
  for _, edge in ipairs((Graph.edges(f, 'fi', x.member, 0))) do
    if edge.data then
      local parent = Records.read('x', edge.id)
      if parent and parent.state == 'completed' then
        inputs[#inputs + 1] = { edge.data, Payloads.of(parent, 'result') or 'null' }
      end
    end
  end
  return #inputs > 0 and inputs or nil
end

-- Return a slice of the graph: at most `limit` members from `offset` on, their out edges and their joins.
function Graph.slice(f, offset, limit)
  local ids = redis.call('ZRANGE', Keys.of('fl', f.id), offset, offset + limit - 1)
  local members, edges, joins = {}, {}, {}
  for _, id in ipairs(ids) do
    local x = Records.read('x', id)
    if x then
      members[#members + 1] = {
        key = x.member, execution_id = id, kind = x.kind, state = x.state, reason = x.reason, outcome = x.outcome,
      }
      for _, edge in ipairs((Graph.edges(f, 'fo', x.member, 0))) do
        edges[#edges + 1] = { from = x.member, to = edge.to, data = edge.data }
      end
      local j = Graph.read_join(f, x.member)
      if j then joins[#joins + 1] = { key = x.member, policy = j.policy, k = j.k, on_satisfied = j.on or 'let_run' } end
    end
  end
  return { members = members, edges = edges, joins = joins, graph_revision = f.graph_revision, more = #ids == limit }
end
