-- The scheduler's ops for lanes. Every partition keeps a copy of each lane's status, so that a grant reads only its own
-- partition. Partition 0 decides on changes; its version number tells which of two changes came last.
--
-- Needs: Call, Events, Lanes, Records.
local ops = Ops.scheduler

local EVENTS = { active = 'resumed', paused = 'paused', draining = 'draining' }

-- lane_known: return whether this partition's lane index has the lane. args: lane. reply: {known}.
function ops.lane_known(a) return { known = Lanes.known(a.lane) } end

-- Set a lane's status in this partition. A lane that was paused gets a `ready` hint: its work may be handed out again.
local function set(record, status, version)
  if record.status == 'paused' and status ~= 'paused' then Call.hint('ready', record.id .. '|*', 1) end
  record.status, record.version = status, version
end

local function edit(lane)
  return Records.edit('lane', lane) or Records.create('lane', lane, { status = 'active', version = 0 })
end

-- lane_change: decide on a lane's status, in partition 0. args: lane, status (active | paused | draining), reason.
-- reply: {status, version}. events: lane paused, resumed or draining; none if the lane already has that status.
function ops.lane_change(a)
  local record = edit(a.lane)
  if record.status ~= a.status then
    Events.emit('lane', record, EVENTS[a.status], { from = record.status, to = a.status, reason = a.reason, actor = 'operator' })
    set(record, a.status, record.version + 1)
  end
  return { status = record.status, version = record.version }
end

-- lane_follow: adopt partition 0's decision. args: lane, status, version. reply: the lane, as in `lanes`, and now.
-- events: none.
function ops.lane_follow(a)
  local record = edit(a.lane)
  if a.version > record.version then set(record, a.status, a.version) end
  Records.settle()
  return { items = { Lanes.depth(a.lane) }, now = Call.now }
end

-- lanes: list a page of lanes. args: cursor, limit. reply: {items: [{lane, status, depth, oldest_ready_at}], now}
function ops.lanes(a)
  Records.settle()
  local items = {}
  for i, lane in ipairs(Lanes.page(a.cursor, a.limit)) do items[i] = Lanes.depth(lane) end
  return { items = items, now = Call.now }
end
