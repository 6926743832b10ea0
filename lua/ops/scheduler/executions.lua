-- The scheduler's ops that create executions and read them.
--
-- Needs: Children, Errors, Events, Executions, Graph, Idempotency, Keys, Lanes, Leases, Lists, Records, States, Unique.
local ops = Ops.scheduler

-- Create the execution that `create` asks for. Return the op's reply.
local function create(a)
  local spec, parent_id = a.spec, a.spec.parent_id
  Executions.check_spec(spec)
  spec.limit = a.limit
  Lanes.admit(spec.lane or 'default')
  local x
  if spec.flow_id then
    if parent_id then Errors.invalid('parent_id', 'a member of a flow has none') end
    x = Graph.join(spec.flow_id, a.id, spec, a.namespace)
  else
    if parent_id then Children.admit(parent_id, a.parent_close) end
    local answer, begun
    if a.unique_key then
      answer, begun = Unique.settle(a.namespace, a.unique_key, a.on_conflict, spec)
      if answer then return answer end
    end
    x = Executions.create(a.id, spec, {
      namespace = a.namespace ~= 'default' and a.namespace or nil, parent_id = parent_id, parent_close = a.parent_close,
      unique_key = a.unique_key, held = begun ~= nil,
    })
    if a.unique_key then Unique.hold(x, begun) end
  end
  return { execution_id = a.id, state = x.state, duplicate = false }
end

-- create: create an execution.
-- args: id, namespace, digest, idempotency_key, spec {fields of execution.create}, limit (its tokens,
-- limit/limits.lua), parent_close, unique_key, on_conflict, again (true: an earlier request chose this id), taker (a worker
-- that waits for such work, as in hand_out), reply (the subject on which the creator expects the record at its end, as in
-- wait; not of a duplicate).
-- reply: {execution_id, state (in which it was created), duplicate, task (if the taker has it)}. errors: invalid_request,
-- idempotency_conflict (also of a unique_key), those of Children.admit (the parent), those of Graph.join (the flow).
-- events: created; flow executions_added; leased (with `start`: started).
function ops.create(a)
  local existing, reply = Records.read('x', a.id), nil
  if existing then
    -- The command came twice: the service's connection broke before the first reply arrived.
    reply = { execution_id = a.id, state = existing.state, duplicate = a.again or false }
  else
    reply = Idempotency.once('execution', a.namespace, a, create)
    -- The reply that an idempotency key keeps has no task.
    if a.taker and not reply.duplicate then reply.task = Leases.eager(Records.edit('x', a.id), a.taker) end
  end
  if a.reply and not reply.duplicate then Executions.await(a.id, a.reply) end
  return reply
end

-- get: return an execution with its payloads. args: execution_id. errors: execution_not_found.
function ops.get(a) return Executions.view(Executions.read(a.execution_id)) end

-- wait: as get; if the execution has not ended, its end is told to the caller (execution/waiting.lua).
-- args: execution_id, reply (the subject that the caller expects the record on; nil: a scheduler has to look again).
-- errors: execution_not_found.
function ops.wait(a)
  local x = Executions.read(a.execution_id)
  if not States.TERMINAL[x.state] then Executions.await(x.id, a.reply) end
  return Executions.view(x)
end

-- Bytes of a history that one call reads; no event is longer.
local HISTORY_CHUNK = 32768

-- history: return an execution's next events. args: execution_id, seq (number of the last event already read, 0 at the
-- start), offset (bytes: where that event ended), limit.
-- reply: packed [offset after the last event, whether there are more, events…].
-- errors: execution_not_found, invalid_request (event seq + 1 does not begin at that offset).
function ops.history(a)
  local x = Executions.read(a.execution_id)
  local key, log = Keys.of('h', a.execution_id), x.log or ''
  local kept = redis.call('STRLEN', key)
  local chunk = a.offset < kept and redis.call('GETRANGE', key, a.offset, a.offset + HISTORY_CHUNK - 1) or ''
  -- The latest events of a history are in the execution's record.
  if a.offset + #chunk >= kept then chunk = chunk .. string.sub(log, math.max(a.offset - kept, 0) + 1) end
  local at, n, events = 0, 0, {}
  while n < a.limit and at < #chunk do
    local whole, behind, event = pcall(cmsgpack.unpack_one, chunk, at)
    if not whole then break end
    if type(event) ~= 'table' or event[1] ~= a.seq + n + 1 then break end
    local after = behind >= 0 and behind or #chunk
    local stored = type(event[2]) == 'string'
    local full = not stored and Executions.written_out(x, event)
    if not stored and not full then break end
    n = n + 1
    events[n] = full and pack(full) or string.sub(chunk, at + 1, after)
    at = after
  end
  if n == 0 and a.seq < x.seq then Errors.invalid('cursor', 'it is not of this history') end
  return Events.array_header(n + 2) .. pack(a.offset + at) .. pack(a.seq + n < x.seq) .. table.concat(events)
end

-- list: list this partition's executions, newest first.
-- args: namespace, lane, kind, state, flow_id, tag (a name or name=value; all optional), cursor (an id), limit, budget.
-- reply: {items, cursor}. At most `budget` executions are read, whatever the filters; so a page may be short.
function ops.list(a)
  Records.settle()
  local keys = {}
  local by_lane = a.lane and not a.tag and not a.flow_id
  if a.tag then
    keys[1] = Keys.tag(a.tag)
  elseif by_lane then
    for _, state in ipairs(a.state and { a.state } or Lanes.STATES) do keys[#keys + 1] = Keys.state(a.lane, state) end
  else
    keys[1] = Keys.executions()
  end
  local function keep(id)
    local x = Records.read('x', id)
    return x and (not a.kind or x.kind == a.kind) and (not a.namespace or (x.namespace or 'default') == a.namespace)
      and (not a.flow_id or x.flow_id == a.flow_id)
      and (by_lane or ((not a.lane or x.lane == a.lane) and (not a.state or x.state == a.state)))
  end
  local ids, cursor
  if a.flow_id and not a.tag then
    ids, cursor = Lists.backwards(Keys.of('fl', a.flow_id), a.cursor, a.limit, a.budget, keep)
  else
    ids, cursor = Lists.merge('x', keys, a.cursor, a.limit, a.budget, keep)
  end
  return Lists.page(ids, cursor, function(id) return Executions.view(Records.read('x', id)) end)
end
