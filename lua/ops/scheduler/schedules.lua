-- The scheduler's ops for schedules. The rules are in schedule/schedules.lua.
--
-- Needs: Call, Idempotency, Keys, Lists, Records, Schedules.
local ops = Ops.scheduler

-- clock: return Valkey's time, from which Python computes a cron schedule's next due time. args: none. reply: {now}.
-- errors, events: none.
function ops.clock() return { now = Call.now } end

-- schedule_create: args: id, at | every_ms (count) | cron, timezone and next_at; misfire, spec, input, limit,
-- namespace, idempotency_key, digest. reply: the schedule. errors: invalid_request, idempotency_conflict.
-- events: schedule created.
function ops.schedule_create(a)
  local existing = Records.read('schedule', a.id)
  if existing then return Schedules.view(existing) end
  return Idempotency.once('schedule', a.namespace, a, function() return Schedules.view(Schedules.create(a.id, a)) end)
end

-- schedule_get: args: schedule_id. reply: the schedule. errors: schedule_not_found. events: none.
function ops.schedule_get(a) return Schedules.view(Schedules.read(a.schedule_id)) end

-- schedule_list: list schedules, newest first. args: namespace, status, cursor (an id), limit, budget.
-- reply: {items, cursor}. errors, events: none.
function ops.schedule_list(a)
  Records.settle()
  local keys = {}
  for _, status in ipairs(a.status and { a.status } or { 'active', 'paused', 'finished' }) do
    keys[#keys + 1] = Keys.schedules(status)
  end
  local ids, cursor = Lists.merge('schedule', keys, a.cursor, a.limit, a.budget, function(id)
    local s = Records.read('schedule', id)
    return s and (not a.namespace or (s.namespace or 'default') == a.namespace)
  end)
  return Lists.page(ids, cursor, function(id) return Schedules.view(Records.read('schedule', id)) end)
end

-- schedule_pause: pause a schedule: its due times pass without effect. args: schedule_id. reply: the schedule.
-- errors: schedule_not_found, already_terminal. events: schedule paused.
function ops.schedule_pause(a)
  local s = Schedules.edit(a.schedule_id)
  if s.status == 'active' then Schedules.move(s, 'paused') end
  return Schedules.view(s)
end

-- schedule_resume: resume a paused schedule with the due time `next_at`, if its next due time is still `was`.
-- args: schedule_id, was, next_at. reply: the schedule. errors: schedule_not_found, already_terminal.
-- events: schedule resumed.
function ops.schedule_resume(a)
  local s = Schedules.edit(a.schedule_id)
  if s.status == 'paused' and s.next_at == a.was then Schedules.move(s, 'active', a.next_at) end
  return Schedules.view(s)
end

-- schedule_trigger: create one of the schedule's executions now, beside its due times. args: schedule_id, id (of the
-- execution), again (as in create). reply: {execution_id, state, duplicate, schedule_id}.
-- errors: schedule_not_found, already_terminal, execution_not_eligible (the lane drains).
-- events: schedule triggered; created.
function ops.schedule_trigger(a)
  -- The command may come twice (the service's connection broke before the first reply), as in create.
  local x = Records.read('x', a.id)
  local duplicate = x ~= nil and a.again or false
  if not x then x = Schedules.trigger(Schedules.edit(a.schedule_id), a.id) end
  return { execution_id = a.id, state = x.state, duplicate = duplicate, schedule_id = a.schedule_id }
end

-- schedule_update: replace a schedule's timing, misfire or spec. args: schedule_id, timing {at | every_ms (count) | cron,
-- timezone and next_at}, misfire, spec (with input and limit); what is nil stays.
-- reply: the schedule. errors: schedule_not_found, already_terminal, invalid_request. events: schedule updated.
function ops.schedule_update(a)
  return Schedules.view(Schedules.update(Schedules.edit(a.schedule_id), a.timing, a.misfire, a.spec, a.input, a.limit))
end

-- schedule_delete: delete a schedule; its executions go on. args: schedule_id. reply: the schedule as it was.
-- errors: schedule_not_found. events: schedule deleted.
function ops.schedule_delete(a)
  local s = Schedules.read(a.schedule_id)
  local view = Schedules.view(s)
  Schedules.delete(s)
  return view
end

-- schedule_fire: create the executions of due times that the `due` op handed out. A late or repeated call finds that
-- `next_at` has moved on and does nothing.
-- args: schedule_id, due_at, fires [[due time, execution id]], skipped, next_at (absent: that was the last due time).
-- reply: {fired}. errors: execution_not_eligible (the lane drains; the schedule will be handed out again).
-- events: schedule misfired, fired, finished; created.
function ops.schedule_fire(a)
  local s = Records.edit('schedule', a.schedule_id)
  if not s or s.status ~= 'active' or s.next_at ~= a.due_at then return { fired = 0 } end
  Schedules.fire(s, a.fires, a.skipped, a.next_at)
  return { fired = #a.fires }
end
