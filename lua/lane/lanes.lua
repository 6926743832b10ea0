-- Lanes: the index of lanes, their status (active, paused, draining) and their depth.
--
-- Needs: Errors, Keys, Notes, Places, Records, Rings, Undo.

-- Write lanes to the index: {lane = true, or false if that is done}.
local function write(used)
  for lane, new in pairs(used) do
    if new then
      redis.call('ZADD', Keys.lanes(), 'NX', 0, lane)
      used[lane] = false
    end
  end
end

-- Remove lanes without executions from the index, with the indexes of their queues. Paused and draining lanes stay.
local function forget(left)
  for lane in pairs(left) do
    local of = {}
    for i, state in ipairs(Lanes.STATES) do of[i] = Keys.state(lane, state) end
    if Lanes.status(lane) == 'active' and redis.call('EXISTS', unpack(of)) == 0 then
      redis.call('ZREM', Keys.lanes(), lane)
      Rings.forget(lane)
    end
  end
end

local used = Notes.new(write)    -- lanes that got an execution in this call, see `write`
local left = Notes.new(forget)   -- lanes of executions that this call deleted

-- A lane got an execution: put the lane into the index at the end of the call.
function Lanes.used(lane)
  if used.of[lane] == nil then Undo.put(used, lane, true) end
end

-- An execution of this lane was deleted from Valkey.
function Lanes.left(lane) Notes.table(left)[lane] = true end

-- Return at most `limit` lanes in alphabetical order after `cursor`.
function Lanes.page(cursor, limit)
  write(used.of)
  local from = cursor and '(' .. cursor or '-'
  return redis.call('ZRANGE', Keys.lanes(), from, '+', 'BYLEX', 'LIMIT', 0, limit)
end

function Lanes.known(lane) return used.of[lane] ~= nil or redis.call('ZSCORE', Keys.lanes(), lane) ~= false end

-- The record of a lane that was ever paused, drained or resumed: status (active | paused | draining), version (of the
-- change; ops/scheduler/lanes.lua), seq.
Places.define('lane', function() return {} end)

function Lanes.status(lane)
  local record = Records.read('lane', lane)
  return record and record.status or 'active'
end

-- Return whether a lane is paused. A paused lane hands no work out; a draining lane hands out the work that it has.
function Lanes.paused(lane) return Lanes.status(lane) == 'paused' end

-- Refuse new work for a draining lane. Errors: execution_not_eligible {lane, lane_status}.
function Lanes.admit(lane)
  local status = Lanes.status(lane)
  if status == 'draining' then
    Errors.raise('execution_not_eligible', { lane = lane, lane_status = status }, 'lane ' .. lane .. ' is draining: it takes no new work')
  end
end

Lanes.STATES = { 'scheduled', 'ready', 'leased', 'running', 'retry_wait', 'suspended', 'completed', 'failed', 'canceled' }

-- Return a lane's depth in this partition: executions per state, and when the oldest ready execution became ready.
function Lanes.depth(lane)
  local depth = {}
  for _, state in ipairs(Lanes.STATES) do depth[state] = redis.call('ZCARD', Keys.state(lane, state)) end
  local oldest = redis.call('ZRANGE', Keys.state(lane, 'ready'), 0, 0)[1]
  local x = oldest and Records.read('x', oldest)
  return { lane = lane, status = Lanes.status(lane), depth = depth, oldest_ready_at = x and x.ready_at }
end
