-- The graph of a managed flow: who waits for whom, made and read. What an ending sets in motion stands in
-- graph_work.lua, later changes in graph_changes.lua.
--
-- Keys of one flow: fm {member key: execution id}; fl (execution ids in order); fo {key: out edges}; fi {key: in
-- edges}; fj {key: its join}; fw (work left over). A join: policy, k, on (let_run | cancel_remaining), n (in edges), ok and
-- dead (parents completed, parents that ended otherwise), done ('run' | 'skip').

-- What a member has of one of these keys; nil where that is nothing.
function Graph.read(f, part, key)
  local packed = redis.call('HGET', Flows.key(part, f.id), key)
  return packed and unpack_msg(packed) or nil
end

local joins   -- of this call: key of a flow's joins -> member key -> the join, packed

function Graph.begin()
  joins = {}
  Graph.begin_work()
end

-- A member's join; nil where it waits for nobody.
function Graph.read_join(f, key)
  local name = Flows.key('fj', f.id)
  local packed = joins[name] and joins[name][key] or redis.call('HGET', name, key)
  return packed and unpack_msg(packed) or nil
end

function Graph.write_join(f, key, join)
  local name = Flows.key('fj', f.id)
  joins[name] = joins[name] or {}
  Undo.set(joins[name], key, pack(join))
end

function Graph.flush()
  for name, of in pairs(joins) do
    local args = {}
    for key, packed in pairs(of) do
      args[#args + 1] = key
      args[#args + 1] = packed
    end
    for i = 1, #args, 2000 do redis.call('HSET', name, unpack(args, i, math.min(i + 1999, #args))) end
  end
end

-- Makes members, of a new flow or more of them. members: {key, execution_id, …spec}; edges: {from, to (one of them),
-- data}; joins {key: {policy, k, on_satisfied}}, all checked by the caller. Nothing runs before Graph.start.
function Graph.create(f, members, edges, joins)
  if #members == 0 then return end
  local ids, out, incoming = {}, {}, {}
  local map, order = {}, {}
  for i, m in ipairs(members) do
    ids[m.key] = m.execution_id
    map[#map + 1] = m.key
    map[#map + 1] = m.execution_id
    order[#order + 1] = f.total + i
    order[#order + 1] = m.execution_id
    out[m.key], incoming[m.key] = {}, {}
  end
  for _, e in ipairs(edges) do
    if not out[e.from] then
      ids[e.from] = redis.call('HGET', Flows.key('fm', f.id), e.from)
      out[e.from] = Graph.read(f, 'fo', e.from) or {}
    end
    out[e.from][#out[e.from] + 1] = { to = e.to, data = e.data }
    incoming[e.to][#incoming[e.to] + 1] = { from = e.from, id = ids[e.from], data = e.data }
  end
  local function write(command, part, args)
    for i = 1, #args, 2000 do
      redis.call(command, Flows.key(part, f.id), unpack(args, i, math.min(i + 1999, #args)))
    end
  end
  write('HSET', 'fm', map)
  write('ZADD', 'fl', order)
  local fo, fi = {}, {}
  for key, edges_out in pairs(out) do
    if #edges_out > 0 then
      fo[#fo + 1] = key
      fo[#fo + 1] = pack(edges_out)
    end
  end
  for _, m in ipairs(members) do
    local key = m.key
    local n = #incoming[key]
    if n > 0 then
      local join = joins[key] or {}
      fi[#fi + 1] = key
      fi[#fi + 1] = pack(incoming[key])
      Graph.write_join(f, key, {
        policy = join.policy or 'all_of', k = join.k, on = join.on_satisfied, n = n, ok = 0, dead = 0,
      })
    end
  end
  if #fo > 0 then write('HSET', 'fo', fo) end
  if #fi > 0 then write('HSET', 'fi', fi) end
  f.total = f.total + #members
  f.counts.scheduled = (f.counts.scheduled or 0) + #members
  for _, m in ipairs(members) do
    Executions.create(m.execution_id, m, { flow_id = f.id, member = m.key, namespace = f.namespace, held = true })
  end
end

-- The results that edges hand on to this member: {key, result (JSON text)} each.
function Graph.inputs(x)
  local inputs = {}
  local packed = redis.call('HGET', Flows.key('fi', x.flow_id), x.member)
  if not packed then return nil end
  for _, edge in ipairs(unpack_msg(packed)) do
    if edge.data then
      local parent = Records.read('x', edge.id)
      if parent and parent.state == 'completed' then
        inputs[#inputs + 1] = { edge.data, Payloads.of(parent, 'result') or 'null' }
      end
    end
  end
  return #inputs > 0 and inputs or nil
end

-- A slice of the graph: members from `offset`, their out edges, their joins.
function Graph.slice(f, offset, limit)
  local ids = redis.call('ZRANGE', Flows.key('fl', f.id), offset, offset + limit - 1)
  local members, edges, joins = {}, {}, {}
  for _, id in ipairs(ids) do
    local x = Records.read('x', id)
    if x then
      members[#members + 1] = {
        key = x.member, execution_id = id, kind = x.kind, state = x.state, reason = x.reason, outcome = x.outcome,
      }
      for _, edge in ipairs(Graph.read(f, 'fo', x.member) or {}) do
        edges[#edges + 1] = { from = x.member, to = edge.to, data = edge.data }
      end
      local j = Graph.read_join(f, x.member)
      if j then joins[#joins + 1] = { key = x.member, policy = j.policy, k = j.k, on_satisfied = j.on or 'let_run' } end
    end
  end
  return { members = members, edges = edges, joins = joins, graph_revision = f.graph_revision, more = #ids == limit }
end
