-- Bulk changes: one change to all executions that match a filter, step by step. The scheduler finds the executions and
-- changes them; this record says how far it is. A step counts once: it must name the step that is next, so that a step
-- that was handed out twice does no harm.
--
-- A record: filter (JSON text), action, reason, grace_ms, priority, tags, name, payload and waitpoint_key (of a signal),
-- rate, most, by (the user who asked), status (running | finished | stopped), step (how many are done), step_at (when the
-- last one was), cursor (where the next one goes on), next_at (when), look_at (not due before, because it was just handed
-- out), looked, done, refused, last_error, looked_to, told_at (time of the last progress event), created_at, updated_at,
-- finished_at.
--
-- A field of an execution: bulks (ids of the last bulk changes that are not to change it a second time).
--
-- Needs: Call, Due, Errors, Events, Keys, Lists, Payloads, Places, Records.

-- A step that was handed out but not taken (the scheduler died) is handed out again after this time.
local AGAIN_MS = 5000
local TELL_MS = 1000
local MOST = 100   -- that run at once in a partition
local NOTED = 8    -- bulk changes that an execution remembers: a step is repeated within seconds, and few change one at once

Places.define('bulk', function(b)
  local placement = { [Keys.bulks(b.status)] = 0 }
  local at = b.status == 'running' and math.max(b.next_at, b.look_at or 0) or b.finished_at and b.finished_at + Call.retention_ms()
  placement[Due.key('scheduler', 'bulk')] = at
  return placement
end)

local function tell(b, event, about)
  b.updated_at = Call.now
  about.data = about.data or { looked = b.looked, done = b.done, refused = b.refused }
  Events.emit('bulk', b, event, about)
end

local function finish(b, status, about)
  about.from, about.to = b.status, status
  b.status, b.finished_at = status, Call.now
  tell(b, status, about)
end

-- Errors: bulk_not_found.
function Bulks.read(id)
  local b = Records.read('bulk', id)
  if not b then Errors.raise('bulk_not_found', { bulk_id = id }) end
  return b
end

-- Create a bulk change and return it. a: fields of execution.bulk, checked; filter: JSON text.
-- Errors: invalid_request (too many run).
function Bulks.create(id, a)
  Lists.check_room(Keys.bulks('running'), MOST, 'action')
  local b = Records.create('bulk', id, {
    namespace = a.namespace ~= 'default' and a.namespace or nil, filter = a.filter, action = a.action, reason = a.reason,
    grace_ms = a.grace_ms, priority = a.priority, tags = a.tags, name = a.name, waitpoint_key = a.waitpoint_key,
    rate = a.rate, most = a.most, by = Call.user, status = 'running', step = 0, step_at = Call.now, next_at = Call.now,
    looked = 0, done = 0, refused = 0, created_at = Call.now,
  })
  Payloads.hold(b, 'payload', a.payload)
  tell(b, 'created', { to = 'running', actor = 'operator', data = { action = b.action, filter = b.filter } })
  return b
end

-- Note a step that was made. a: {step (which one it was), cursor (nil: it was the last one), looked, done, refused (in this
-- step), last_error, looked_to, pause_ms (until the next step)}.
function Bulks.advance(b, a)
  if b.status ~= 'running' or b.step ~= a.step then return end
  b.step, b.step_at, b.look_at = b.step + 1, Call.now, nil
  b.cursor, b.looked_to, b.next_at = a.cursor, a.looked_to, Call.now + a.pause_ms
  b.looked, b.done, b.refused = b.looked + a.looked, b.done + a.done, b.refused + a.refused
  b.last_error = a.last_error or b.last_error
  b.updated_at = Call.now
  if not a.cursor then
    finish(b, 'finished', { actor = 'scheduler' })
  elseif not b.told_at or b.told_at + TELL_MS <= Call.now then
    b.told_at = Call.now
    tell(b, 'progress', { actor = 'scheduler' })
  end
end

-- Stop a bulk change: no further step counts. One that has ended stays as it is.
function Bulks.stop(b)
  if b.status == 'running' then finish(b, 'stopped', { actor = 'operator' }) end
end

-- The due loop's part: hand the next step to the scheduler; delete one that has ended after its retention.
function Bulks.due(b)
  if b.status ~= 'running' then
    Payloads.release(b, 'payload')
    Records.delete('bulk', b.id)
  elseif b.next_at <= Call.now then
    b.look_at = Call.now + AGAIN_MS
    Due.outside({ bulk_id = b.id })
  end
end

-- Return whether this bulk change has changed the execution before, as `note` has kept it.
function Bulks.changed(x, id) return contains(x.bulks, id) end

-- Keep that this bulk change has changed the execution.
function Bulks.note(x, id) remember(table_at(x, 'bulks'), id, NOTED) end

-- Return a bulk change without its payload, of which lists would be long.
function Bulks.view(b)
  return {
    bulk_id = b.id, status = b.status, filter = b.filter, action = b.action, reason = b.reason, grace_ms = b.grace_ms,
    priority = b.priority, tags = b.tags, name = b.name, waitpoint_key = b.waitpoint_key, rate = b.rate, most = b.most,
    looked = b.looked, done = b.done, refused = b.refused, last_error = b.last_error, looked_to = b.looked_to, by = b.by,
    created_at = b.created_at, updated_at = b.updated_at, finished_at = b.finished_at, step = b.step, step_at = b.step_at,
    cursor = b.cursor,
  }
end
