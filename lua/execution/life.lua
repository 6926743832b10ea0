-- The life of an execution: create, release, resume and retire it. Its ends: endings.lua.
--
-- Needs: Call, Keys, Lanes, Payloads, Records, States.

-- The fields that a record takes over from a spec, and from `extra` of Executions.create.
local OF_SPEC = {
  priority = true, max_attempts = true, backoff = true, retry_on = true, fail_on = true, attempt_timeout_ms = true,
  deadline_at = true, tags = true, fairness_key = true, max_reclaims = true, retention_ms = true, limit = true,
  quota_id = true, concurrency_key = true, traceparent = true,
}
local OF_EXTRA = {
  namespace = true, flow_id = true, member = true, parent_id = true, parent_close = true, replay_of = true,
  unique_key = true, parent_entry = true, forked_from = true, continues = true,
}
local told_kind, told_lane, told   -- the lane and kind that an event `created` told last, and packed

-- Return the data of the event `created`. Where it is only lane and kind, all of a batch share it.
local function created_data(x, extra)
  if x.parent_id or x.replay_of or x.forked_from or x.continues or extra.schedule_id then
    return {
      kind = x.kind, lane = x.lane, parent_id = x.parent_id, replay_of = x.replay_of, schedule_id = extra.schedule_id,
      due_at = extra.due_at, forked_from = x.forked_from, continues = x.continues,
    }
  end
  if x.kind ~= told_kind or x.lane ~= told_lane then
    told_kind, told_lane, told = x.kind, x.lane, pack({ kind = x.kind, lane = x.lane })
  end
  return told
end

-- Create an execution and return it. spec: fields of execution.create, checked; extra: {flow_id, member, parent_id,
-- replay_of, forked_from, continues, parent_entry, parent_close, unique_key, namespace, held (true: it waits for its dependencies), actor, schedule_id and
-- due_at (for the event)}. The event `created` carries the first state.
function Executions.create(id, spec, extra)
  local now = Call.now
  local x = {
    kind = spec.kind, lane = spec.lane or 'default', fresh = true, created_at = now, updated_at = now,
    state = 'ready', ready_at = now, id = id, seq = 0,
  }
  for name, value in pairs(spec) do
    if OF_SPEC[name] then x[name] = value end
  end
  for name, value in pairs(extra) do
    if OF_EXTRA[name] then x[name] = value end
  end
  if spec.capabilities and #spec.capabilities > 0 then x.caps = table.concat(spec.capabilities, ',') end
  if spec.run_at and spec.run_at > now then x.wake_at = spec.run_at end
  if extra.held or x.wake_at then
    x.state, x.reason, x.ready_at = 'scheduled', extra.held and 'dependencies' or 'time', nil
  end
  Records.create('x', id, x)
  local parent = x.parent_id and Records.edit('x', x.parent_id)
  if parent then parent.children_open = (parent.children_open or 0) + 1 end
  Payloads.hold(x, 'input', spec.input)
  local data = created_data(x, extra)
  local brief = data == told and x.state == 'ready' and not extra.actor and not Call.user and Executions.brief_created
  Executions.note(x, 'created', extra.actor, nil, x.state, x.reason, data, brief or nil)
  Lanes.used(x.lane)
  return x
end

-- The dependencies of a scheduled execution are met: make it ready, or let it wait for its run_at.
function Executions.release(x, actor)
  if x.wake_at and x.wake_at > Call.now then
    States.waits(x, 'time', { event = 'released', actor = actor })
  else
    x.wake_at = nil
    States.transition(x, 'ready', { actor = actor })
  end
end

-- suspended → ready: the execution's wait is over, or need not go on. The same attempt continues.
function Executions.resume(x, why, actor, data)
  x.via, x.resumed = 'resumed', true
  States.transition(x, 'ready', { event = 'resumed', why = why, actor = actor, data = data })
end

-- Retention is over: delete the execution from Valkey. Its audit events stay in their stream.
function Executions.retire(x)
  local id = x.id
  Payloads.release(x, 'input')
  Payloads.release(x, 'result')
  Records.unlink(Keys.of('h', id))
  Records.unlink(Keys.of('fr', id))
  if x.journal and not x.journal.e then Records.unlink(Keys.of('j', id)) end
  Lanes.left(x.lane)
  Records.delete('x', id)
end
