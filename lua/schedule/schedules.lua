-- Schedules create executions at due times. Python computes the due times (cron, time zones); this module makes sure
-- that each due time fires once: the due loop only hands a due schedule to the scheduler, and `fire` advances `next_at`
-- in the same step that creates the execution, if `next_at` is still the due time that was handed out.
--
-- A record: at | every_ms (count) | cron, timezone; misfire, status (active | paused | finished), next_at, look_at (not
-- due before this time, because the schedule was just handed out), fired (executions so far), last_due_at,
-- last_execution_id, missed (due times that were left out), missed_at (when that was last), spec (of the executions; its input is a payload under the schedule's id), limit (its tokens,
-- limit/limits.lua).
--
-- Needs: Call, Due, Errors, Events, Executions, Keys, Lanes, Lists, Payloads, Places, Records.

-- A schedule that was handed out but not fired (the scheduler died) is handed out again after this time.
local AGAIN_MS = 2000
local MOST = 100000   -- active schedules in a partition, and as many paused ones
local MOVES = {
  active = { paused = true, finished = true },
  paused = { active = true },
  finished = {},
}

Places.define('schedule', function(s)
  local placement = { [Keys.schedules(s.status)] = 0 }
  local key = Due.key('scheduler', 'schedule')
  if s.status == 'active' then
    placement[key] = math.max(s.next_at, s.look_at or 0)
  elseif s.status == 'finished' then
    placement[key] = s.updated_at + Call.retention_ms()
  end
  return placement
end)

local function tell(s, event, about)
  s.updated_at = Call.now
  Events.emit('schedule', s, event, about or {})
end

local function move(s, status, about)
  if not MOVES[s.status][status] then Errors.raise('illegal_transition', { from = s.status, to = status }) end
  about.from, about.to = s.status, status
  s.status = status
  tell(s, about.event, about)
end

-- Errors: schedule_not_found.
function Schedules.read(id)
  local s = Records.read('schedule', id)
  if not s then Errors.raise('schedule_not_found', { schedule_id = id }) end
  return s
end

-- Return a schedule for pausing or resuming. Errors: schedule_not_found, already_terminal.
function Schedules.edit(id)
  if Schedules.read(id).status == 'finished' then Errors.raise('already_terminal', { status = 'finished' }) end
  return Records.edit('schedule', id)
end

-- Create a schedule. a: fields of schedule.create, checked; a.input: the input of its executions.
-- Errors: invalid_request.
function Schedules.create(id, a)
  a.spec.input = nil
  if a.at and a.at <= Call.now then Errors.invalid('at', 'is in the past') end
  for _, status in ipairs({ 'active', 'paused' }) do Lists.check_room(Keys.schedules(status), MOST, 'execution') end
  local s = Records.create('schedule', id, {
    namespace = a.namespace ~= 'default' and a.namespace or nil, at = a.at, every_ms = a.every_ms, count = a.count,
    cron = a.cron, timezone = a.timezone, misfire = a.misfire, status = 'active', fired = 0, spec = a.spec, limit = a.limit,
    next_at = a.at or a.next_at or Call.now + a.every_ms, created_at = Call.now,
  })
  Payloads.put('input', id, a.input)
  tell(s, 'created', { to = 'active', data = {
    at = s.at, every_ms = s.every_ms, count = s.count, cron = s.cron, timezone = s.timezone, kind = s.spec.kind, next_at = s.next_at,
  } })
  return s
end

function Schedules.view(s)
  local execution = { input = Payloads.get('input', s.id) }
  for name, value in pairs(s.spec) do execution[name] = value end
  return {
    schedule_id = s.id, namespace = s.namespace or 'default', status = s.status, at = s.at, every_ms = s.every_ms,
    count = s.count, cron = s.cron, timezone = s.timezone, misfire = s.misfire, execution = execution,
    next_at = s.next_at, fired = s.fired, last_due_at = s.last_due_at,
    last_execution_id = s.last_execution_id, missed = s.missed, missed_at = s.missed_at, created_at = s.created_at, updated_at = s.updated_at,
  }
end

-- Move a schedule from active to paused or back. next_at: the next due time; nil: unchanged.
function Schedules.move(s, status, next_at)
  s.next_at, s.look_at = next_at or s.next_at, nil
  move(s, status, { event = status == 'paused' and 'paused' or 'resumed', data = { next_at = s.next_at } })
end

-- Create one of the schedule's executions now, and return it. Due times and `fired`, which `count` bounds, stay.
-- Errors: execution_not_eligible (draining lane).
function Schedules.trigger(s, id)
  Lanes.admit(s.spec.lane or 'default')
  s.spec.limit, s.spec.input = s.limit, Payloads.get('input', s.id)
  local x = Executions.create(id, s.spec, { namespace = s.namespace, actor = 'schedule:' .. s.id, schedule_id = s.id })
  s.spec.limit, s.spec.input = nil, nil
  tell(s, 'triggered', { actor = 'operator', data = { execution_id = id } })
  return x
end

-- Replace a schedule's timing {at | every_ms (count) | cron, timezone and next_at}, its misfire, its spec with input and
-- limit; what is nil stays. Return the schedule. Errors: invalid_request.
function Schedules.update(s, timing, misfire, spec, input, limit)
  if spec and (spec.namespace or 'default') ~= (s.namespace or 'default') then
    Errors.invalid('execution.namespace', 'is not the schedule\'s: ' .. (s.namespace or 'default'))
  end
  if timing and timing.at and timing.at <= Call.now then Errors.invalid('at', 'is in the past') end
  if timing and timing.count and timing.count <= s.fired then
    Errors.invalid('count', 'the schedule has created ' .. s.fired .. ' executions already')
  end
  if timing then
    s.at, s.every_ms, s.count, s.cron, s.timezone = timing.at, timing.every_ms, timing.count, timing.cron, timing.timezone
    s.next_at, s.look_at = timing.at or timing.next_at or Call.now + timing.every_ms, nil
  end
  s.misfire = misfire or s.misfire
  if spec then
    spec.input = nil
    s.spec, s.limit = spec, limit
    if input then Payloads.put('input', s.id, input) else Payloads.drop('input', s.id) end
  end
  tell(s, 'updated', { actor = 'operator', data = {
    at = s.at, every_ms = s.every_ms, count = s.count, cron = s.cron, timezone = s.timezone, misfire = s.misfire,
    kind = s.spec.kind, next_at = s.next_at, execution_replaced = spec ~= nil or nil,
  } })
  return s
end

function Schedules.delete(s)
  tell(Records.edit('schedule', s.id), 'deleted', { from = s.status })
  Payloads.drop('input', s.id)
  Records.delete('schedule', s.id)
end

-- Create the executions of some due times and set the next due time. fires: [[due time, execution id]]; skipped: number
-- of missed due times that get no execution; next_at: nil when there is none left.
-- Errors: execution_not_eligible (draining lane).
function Schedules.fire(s, fires, skipped, next_at)
  if #fires > 0 then Lanes.admit(s.spec.lane or 'default') end
  local actor = 'schedule:' .. s.id
  if skipped > 0 then
    s.missed, s.missed_at = (s.missed or 0) + skipped, Call.now
    tell(s, 'misfired', { actor = 'scheduler', data = { skipped = skipped, from_at = s.next_at, next_at = next_at } })
  end
  s.spec.limit, s.spec.input = s.limit, Payloads.get('input', s.id)
  for _, each in ipairs(fires) do
    local due_at, id = each[1], each[2]
    Executions.create(id, s.spec, { namespace = s.namespace, actor = actor, schedule_id = s.id, due_at = due_at })
    s.fired, s.last_due_at, s.last_execution_id = s.fired + 1, due_at, id
    tell(s, 'fired', { actor = 'scheduler', data = { execution_id = id, due_at = due_at } })
  end
  s.spec.limit, s.spec.input = nil, nil
  s.next_at, s.look_at = next_at, nil
  if not next_at then
    move(s, 'finished', { event = 'finished', actor = 'scheduler', data = { fired = s.fired } })
  end
end

-- The due loop's part: hand a due schedule to the scheduler; delete a finished one after its retention.
function Schedules.due(s)
  if s.status == 'finished' then
    Payloads.drop('input', s.id)
    Records.delete('schedule', s.id)
  elseif s.status == 'active' and s.next_at <= Call.now then
    s.look_at = Call.now + AGAIN_MS
    Due.outside({
      schedule_id = s.id, due_at = s.next_at, at = s.at, every_ms = s.every_ms, count = s.count, cron = s.cron,
      timezone = s.timezone, misfire = s.misfire, fired = s.fired,
    })
  end
end
