-- The signal-router's ops for waiting flows. The rules are in flow/waits.lua.
--
-- Needs: FlowWaits, Flows, Keys, Payloads, Records, Waits.
local ops = Ops.signal_router

local WAITERS = 20   -- flows per call of event_come, waitpoints per call of event_signal

-- flow_state: return a flow's state, so that Python can merge a JSON patch into it. args: flow_id.
-- reply: {state, revision, now}. errors: flow_not_found, already_terminal, cancel_pending.
function ops.flow_state(a) return Flows.state_of(a.flow_id) end

-- flow_get: args: flow_id. reply: the flow. errors: flow_not_found.
function ops.flow_get(a) return Flows.view(Flows.read(a.flow_id)) end

-- flow_set_waiting: args: flow_id, wait, at (the timer's or timeout's end), topic, correlation_id (of the event to wait
-- for), expected_revision. reply: {flow, wait_id, event {event_id, body}: a matching event that came before, if any}.
-- errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending, illegal_transition.
-- events: flow waiting, resumed (if `at` is already past).
function ops.flow_set_waiting(a)
  local f = Flows.edit(a.flow_id, a.expected_revision)
  local event = FlowWaits.begin(f, a)
  return { flow = Flows.view(f), wait_id = f.wait_id or '', event = event }
end

-- flow_resume: end a flow's wait by request. args: flow_id, expected_revision, state (JSON text, already merged; nil:
-- unchanged), next_step. reply: the flow.
-- errors: flow_not_found, revision_mismatch, already_terminal, cancel_pending, illegal_transition.
-- events: flow resumed.
function ops.flow_resume(a)
  local f = Flows.edit(a.flow_id, a.expected_revision)
  Flows.check(f, 'running', 'waiting')
  Flows.put_state(f, a)
  FlowWaits.resume(f, 'requested')
  return Flows.view(f)
end

-- event_come: keep an event for its retention time, and return a slice of the flows that wait for it. args: topic,
-- correlation_id, event_id, body, after (id of the last flow of the previous slice; nil: the first slice).
-- reply: {waiters [{flow_id, wait_id, state, revision}], after (nil: this was the last slice), waitpoints (whether some
-- await it)}. errors, events: none.
function ops.event_come(a)
  if not a.after then FlowWaits.keep_event(a.topic, a.correlation_id, a.event_id, a.body) end
  Records.settle()
  local from = a.after and '(' .. a.after or '-'
  local ids = redis.call('ZRANGE', Keys.event_waiters(a.topic, a.correlation_id), from, '+', 'BYLEX', 'LIMIT', 0, WAITERS)
  local waiters = {}
  for _, id in ipairs(ids) do
    local f = Records.read('f', id)
    if f and not FlowWaits.woken_by(f, a.event_id) then
      waiters[#waiters + 1] = {
        flow_id = id, wait_id = f.wait_id, state = Payloads.get('state', id) or 'null', revision = f.revision,
      }
    end
  end
  local waitpoints = redis.call('EXISTS', Keys.event_waitpoints(a.topic, a.correlation_id)) == 1 or nil
  return { waiters = waiters, after = #ids == WAITERS and ids[#ids] or nil, waitpoints = waitpoints }
end

-- event_signal: deliver an event to a slice of the waitpoints that await it. args: topic, correlation_id, event_id, body,
-- after (id of the last waitpoint of the previous slice; nil: the first slice). reply: {after (nil: the last slice)}.
-- errors: none. events: waitpoint signal_recorded, satisfied; resumed.
function ops.event_signal(a)
  Records.settle()
  local key, from = Keys.event_waitpoints(a.topic, a.correlation_id), a.after and '(' .. a.after or '-'
  local ids = redis.call('ZRANGE', key, from, '+', 'BYLEX', 'LIMIT', 0, WAITERS)
  for _, id in ipairs(ids) do
    local w = Records.read('w', id)
    if w then Waits.event_came(w, a.topic, a.event_id, a.body) end
  end
  return { after = #ids == WAITERS and ids[#ids] or nil }
end

-- flow_wake: resume a flow by an event that it waits for. args: flow_id, wait_id, event_id, topic, body (for the audit
-- trail), state (as in flow_resume), revision (of the flow when its state was read).
-- reply: {done}: false if the flow's revision has changed since. errors: none. events: flow resumed.
function ops.flow_wake(a)
  local f = Records.read('f', a.flow_id)
  local waits = f and f.status == 'waiting' and f.wait_id == a.wait_id and not f.cancel_requested
  if not waits or FlowWaits.woken_by(f, a.event_id) then return { done = true } end
  if f.revision ~= a.revision then return { done = false } end
  f = Records.edit('f', a.flow_id)
  Flows.put_state(f, a)
  FlowWaits.wake(f, a.event_id, a.topic, a.body)
  return { done = true }
end
