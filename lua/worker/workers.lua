-- Workers: their lanes, capabilities and kinds, and when each was last heard of. A worker's record is in the partition of its
-- name. Each partition counts the leases that a worker holds there, in the same step that begins or ends a lease.
--
-- Fields: lanes, caps, kinds (lists; kinds nil: all), version, status (active | draining | lost), interval (ms between heartbeats),
-- registered_at, seen_at, lost_at, seq, entity (the worker's id in audit events: a worker that comes back after it was
-- forgotten gets a new one, since its events are numbered from 1 again); slots, lag (ms), holds: as its heartbeat told.
--
-- Needs: Call, Due, Errors, Events, Keys, Lists, Notes, Places, Records, Undo.

local MISSED = 3            -- a worker is lost after this many missed heartbeats
local FORGET_MS = 600000    -- how long a lost worker is kept
local MOST = 10000          -- workers in a partition
local MOVES = {
  active = { draining = true, stopped = true, lost = true },
  draining = { active = true, stopped = true, lost = true },
  lost = { active = true, draining = true, stopped = true },
  stopped = {},
}
Places.define('worker', function(w)
  local at = w.status == 'lost' and w.lost_at + FORGET_MS or w.seen_at + MISSED * w.interval
  return { [Keys.workers()] = 0, [Due.key('lease_keeper', 'worker')] = at }
end)

local function held_by(id) return tonumber(redis.call('HGET', Keys.held(), id) or 0) end

-- Write one command for each worker: every command lengthens the append-only file, a read does not.
local function flush(held)
  for id, change in pairs(held) do
    if change < 0 and held_by(id) + change <= 0 then
      redis.call('HDEL', Keys.held(), id)
    elseif change ~= 0 then
      redis.call('HINCRBY', Keys.held(), id, change)
    end
    held[id] = nil
  end
end

local held = Notes.new(flush)   -- worker -> leases begun minus leases ended in this call

-- Count a lease of this worker that began (change 1) or ended (-1).
function Workers.hold(worker_id, change) Undo.put(held, worker_id, (held.of[worker_id] or 0) + change) end

-- Return how many leases each of these workers holds in this partition.
function Workers.held(ids)
  flush(held.of)
  local counts = {}
  for i, id in ipairs(ids) do counts[i] = held_by(id) end
  return counts
end

local function tell(w, event, about)
  local entity = { id = w.entity, seq = w.seq }
  about.data = about.data or {}
  about.data.worker_id = w.id
  Events.emit('worker', entity, event, about)
  w.seq = entity.seq
end

-- Move a worker to another status. about: {event (default: the status), actor, data}.
-- Errors: illegal_transition {from, to}.
function Workers.move(w, status, about)
  if w.status == status then return end
  if not MOVES[w.status][status] then Errors.raise('illegal_transition', { from = w.status, to = status }) end
  about.from, about.to = w.status, status
  w.status = status
  tell(w, about.event or status, about)
end

-- Note a registration or heartbeat. a: {worker_id, lanes, capabilities, kinds, version, heartbeat_ms, slots, loop_lag_ms,
-- holds}. Return the worker's record, and whether the worker was known. Errors: invalid_request (too many workers).
function Workers.seen(a)
  local w = Records.edit('worker', a.worker_id)
  local known = w ~= nil
  if not w then
    Lists.check_room(Keys.workers(), MOST, 'worker_id')
    w = Records.create('worker', a.worker_id, {
      status = 'active', registered_at = Call.now, entity = a.worker_id .. '-' .. Call.unique(),
    })
  end
  w.lanes, w.caps, w.kinds, w.version, w.interval = a.lanes, a.capabilities, a.kinds, a.version, a.heartbeat_ms
  w.slots, w.lag, w.holds = a.slots, a.loop_lag_ms, a.holds
  w.seen_at, w.lost_at = Call.now, nil
  return w, known
end

function Workers.registered(w)
  tell(w, 'registered', { to = w.status, actor = 'worker:' .. w.id, data = {
    lanes = w.lanes, capabilities = w.caps, kinds = w.kinds, version = w.version,
  } })
end

-- The worker has stopped in an orderly way: delete its record.
function Workers.stopped(w)
  Workers.move(w, 'stopped', { actor = 'worker:' .. w.id })
  Records.delete('worker', w.id)
end

-- The due loop's part: mark a silent worker lost, and delete it FORGET_MS later. Its leases expire by themselves.
function Workers.due(w)
  if w.status == 'lost' then
    if w.lost_at + FORGET_MS <= Call.now then Records.delete('worker', w.id) end
  elseif w.seen_at + MISSED * w.interval <= Call.now then
    w.lost_at = Call.now
    Workers.move(w, 'lost', { actor = 'lease-keeper', data = { seen_at = w.seen_at } })
  end
end

function Workers.view(w)
  return {
    worker_id = w.id, lanes = w.lanes, capabilities = w.caps, kinds = w.kinds, version = w.version, status = w.status,
    heartbeat_ms = w.interval, registered_at = w.registered_at, seen_at = w.seen_at,
    slots = w.slots, loop_lag_ms = w.lag, holds = w.holds,
  }
end

-- Return the next workers of this partition by name, as {items, last}. a: cursor, limit, budget (most records to look
-- at), lane, status (optional filters). last: the last name that was looked at (nil: the list is complete).
function Workers.page(a)
  Records.settle()
  local from = a.cursor and '(' .. a.cursor or '-'
  local ids = redis.call('ZRANGE', Keys.workers(), from, '+', 'BYLEX', 'LIMIT', 0, a.budget)
  local items = {}
  for _, id in ipairs(ids) do
    local w = Records.read('worker', id)
    local fits = w and (not a.status or w.status == a.status)
    if fits and a.lane then
      fits = false
      for _, lane in ipairs(w.lanes) do fits = fits or lane == a.lane end
    end
    if fits then items[#items + 1] = Workers.view(w) end
    if #items == a.limit then return { items = items, last = id } end
  end
  return { items = items, last = #ids == a.budget and ids[#ids] or nil }
end
