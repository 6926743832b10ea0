-- Lanes: which there are, whether somebody paused or drains them, how deep they are.
--
-- Needs: Call, Errors, Keys, Queues, Records, Undo.

local used   -- lanes that got an execution in this call
local known  -- those of them that are in the index
local left   -- lanes that an execution has left for good in this call

Call.on_begin(function() used, known, left = {}, {}, {} end)

-- The first execution makes its lane known.
function Lanes.used(lane)
  if not used[lane] then Undo.set(used, lane, true) end
end

-- Writes the lanes that were made known.
function Lanes.write()
  for lane in pairs(used) do
    if not known[lane] then
      redis.call('ZADD', Keys.lanes(), 'NX', 0, lane)
      known[lane] = true
    end
  end
end

-- An execution of this lane has left Valkey.
function Lanes.left(lane) left[lane] = true end

-- Lanes without executions leave the index, with what leads to their queues, unless somebody has paused or drains them.
local function forget()
  for lane in pairs(left) do
    local of = {}
    for i, state in ipairs(Lanes.STATES) do of[i] = Keys.state(lane, state) end
    if Lanes.status(lane) == 'active' and redis.call('EXISTS', unpack(of)) == 0 then
      redis.call('ZREM', Keys.lanes(), lane)
      Queues.forget(lane)
    end
  end
end

-- Lanes in alphabetical order after `cursor`.
function Lanes.page(cursor, limit)
  Lanes.write()
  local from = cursor and '(' .. cursor or '-'
  return redis.call('ZRANGE', Keys.lanes(), from, '+', 'BYLEX', 'LIMIT', 0, limit)
end

function Lanes.known(lane) return used[lane] or redis.call('ZSCORE', Keys.lanes(), lane) ~= false end

-- A lane that somebody paused, drained or resumed once: status (active | paused | draining), version (of the change;
-- ops/scheduler/lanes.lua), seq.
Records.define('lane', function() return {} end)

function Lanes.status(lane)
  local record = Records.read('lane', lane)
  return record and record.status or 'active'
end

-- A paused lane hands nothing out; a draining one hands out what it has.
function Lanes.paused(lane) return Lanes.status(lane) == 'paused' end

-- Refuses new work for a lane that drains. Errors: execution_not_eligible {lane, lane_status}.
function Lanes.admit(lane)
  local status = Lanes.status(lane)
  if status == 'draining' then
    Errors.raise('execution_not_eligible', { lane = lane, lane_status = status }, 'lane ' .. lane .. ' is draining: it takes no new work')
  end
end

Lanes.STATES = { 'scheduled', 'ready', 'leased', 'running', 'retry_wait', 'suspended', 'completed', 'failed', 'canceled' }

-- How deep a lane is in this partition, per state, and since when its oldest ready execution waits.
function Lanes.depth(lane)
  local depth = {}
  for _, state in ipairs(Lanes.STATES) do depth[state] = redis.call('ZCARD', Keys.state(lane, state)) end
  local oldest = redis.call('ZRANGE', Keys.state(lane, 'ready'), 0, 0)[1]
  local x = oldest and Records.read('x', oldest)
  return { lane = lane, status = Lanes.status(lane), depth = depth, oldest_ready_at = x and x.ready_at }
end

Call.on_write(function()
  Lanes.write()
  forget()
end)
