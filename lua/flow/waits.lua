-- Waiting flows: a flow waits for a time, for an external event, or for a caller. While a flow waits, its running
-- members go on, but no member begins: ready members that are found are set aside (x.aside), members whose joins are
-- satisfied stay scheduled, and all of these begin when the flow resumes.
--
-- Fields of a flow: wait (as in the contract), wait_id, wake_at (when the wait ends by itself), awaits {topic,
-- correlation_id}, look_at (when an event that came before the wait is handed out again, in case its router died),
-- woken (ids of events that woke the flow). Key ev:<topic>|<correlation id>: list of events that came, [event id, at,
-- body], newest first.
--
-- Needs: Call, Due, Flows, Graph, Keys.

local KEPT = 32           -- events kept per topic and correlation id
local REMEMBERED = 64     -- ids kept in `woken`
local AGAIN_MS = 2000     -- an event that was handed out without waking its flow is handed out again after this time
local ACTOR = 'signal-router'

local function ttl_ms() return Call.limits.event_ttl_ms or 3600000 end

-- The places of a waiting flow: in the due set by wake_at or look_at, and among the flows that await its event.
Flows.also_placed(function(f, placement)
  if f.status ~= 'waiting' then return end
  local at = f.wake_at
  if f.look_at and (not at or f.look_at < at) then at = f.look_at end
  if at then placement[Due.key('signal_router', 'f')] = at end
  if f.awaits and not f.cancel_requested then placement[Keys.event_waiters(f.awaits.topic, f.awaits.correlation_id)] = 0 end
end)

-- Return the oldest kept event of awaits {topic, correlation_id} whose id is not in `woken`, {event_id, body}, or nil.
function FlowWaits.kept_event(awaits, woken)
  local found = redis.call('LRANGE', Keys.events(awaits.topic, awaits.correlation_id), 0, -1)
  for i = #found, 1, -1 do
    local e = unpack_msg(found[i])
    if e[2] > Call.now - ttl_ms() and not contains(woken, e[1]) then return { event_id = e[1], body = e[3] } end
  end
end

local function came_before(f) return FlowWaits.kept_event(f.awaits, f.woken) end

-- Return the reason for a wait that ends by itself.
local function over(f) return f.wait.kind == 'timer' and 'timer' or 'timeout' end

-- running → waiting. a: fields of flow.set_waiting, and at (when the wait ends by itself), topic and correlation_id (of
-- an awaited event). Return an awaited event that came before, or nil. Errors: those of Flows.check.
function FlowWaits.begin(f, a)
  Flows.check(f, 'waiting')
  f.wait, f.wait_id = a.wait, Call.unique()
  f.wake_at = a.at
  f.awaits = a.topic and { topic = a.topic, correlation_id = a.correlation_id } or nil
  Flows.move(f, 'waiting', { data = { wait = a.wait } })
  if f.wake_at and f.wake_at <= Call.now then
    FlowWaits.resume(f, over(f), ACTOR)
    return nil
  end
  local event = f.awaits and came_before(f)
  if event then f.look_at = Call.now + AGAIN_MS end
  return event
end

-- waiting → running. reason, actor, data: of the event `resumed`. Errors: those of Flows.check.
function FlowWaits.resume(f, reason, actor, data)
  Flows.check(f, 'running')
  f.wait, f.wait_id, f.wake_at, f.awaits, f.look_at = nil, nil, nil, nil, nil
  Flows.move(f, 'running', { event = 'resumed', reason = reason, actor = actor, data = data })
  if f.kind == 'managed' and f.total > 0 then
    Graph.go_on(f)
    Graph.work()
  end
end

-- Keep an event for flows that will wait for it later. Return whether the event is new in this partition.
function FlowWaits.keep_event(topic, correlation_id, event_id, body)
  local key = Keys.events(topic, correlation_id)
  for _, packed in ipairs(redis.call('LRANGE', key, 0, -1)) do
    if unpack_msg(packed)[1] == event_id then return false end
  end
  redis.call('LPUSH', key, pack({ event_id, Call.now, body }))
  redis.call('LTRIM', key, 0, KEPT - 1)
  redis.call('PEXPIRE', key, ttl_ms())
  return true
end

-- Remember that an event has woken a flow, or ended a wait of an execution. Return false if it had before.
function FlowWaits.remember(record, event_id) return remember(table_at(record, 'woken'), event_id, REMEMBERED) end

-- Wake a flow by an event, and remember the event's id. body: for the audit event.
function FlowWaits.wake(f, event_id, topic, body)
  FlowWaits.remember(f, event_id)
  FlowWaits.resume(f, 'external_event', ACTOR, { event_id = event_id, topic = topic, body = body })
end

function FlowWaits.woken_by(f, event_id) return contains(f.woken, event_id) end

-- The due loop's part: end a wait whose time is over, or hand out again an event that did not reach its flow.
function FlowWaits.due(f)
  if f.status ~= 'waiting' then return end
  if f.wake_at and f.wake_at <= Call.now then
    -- Cancellation was requested: the flow may only move to cancelled.
    if f.cancel_requested then
      f.wake_at, f.look_at = nil, nil
    else
      FlowWaits.resume(f, over(f), ACTOR)
    end
    return
  end
  if f.look_at and f.look_at <= Call.now then
    local event = not f.cancel_requested and f.awaits and came_before(f)
    f.look_at = event and Call.now + AGAIN_MS or nil
    if event then Due.outside({ flow_id = f.id, wait_id = f.wait_id, event = event, topic = f.awaits.topic }) end
  end
end
