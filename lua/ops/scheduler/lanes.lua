-- The scheduler's ops about lanes. A lane's status stands in every partition, so that grants look at their own;
-- partition 0 decides, and its version settles which of two changes came last.
--
-- Needs: Call, Events, Lanes, Records.
local ops = Ops.scheduler

local EVENTS = { active = 'resumed', paused = 'paused', draining = 'draining' }

-- lane_known: whether the lane ever had an execution here. args: lane. reply: {known}.
function ops.lane_known(a) return { known = Lanes.known(a.lane) } end

-- The change as this partition sees it: what waits may be handed out again.
local function set(record, status, version)
  if record.status == 'paused' and status ~= 'paused' then Call.hint('ready', record.id, 1) end
  record.status, record.version = status, version
end

local function edit(lane)
  return Records.edit('lane', lane) or Records.create('lane', lane, { status = 'active', version = 0 })
end

-- lane_change: decides. args: lane, status (active | paused | draining), reason. reply: {status, version}.
-- events: lane paused, resumed or draining; none when it is so already.
function ops.lane_change(a)
  local record = edit(a.lane)
  if record.status ~= a.status then
    Events.emit('lane', record, EVENTS[a.status], { from = record.status, to = a.status, reason = a.reason, actor = 'operator' })
    set(record, a.status, record.version + 1)
  end
  return { status = record.status, version = record.version }
end

-- lane_follow: what partition 0 decided. args: lane, status, version. reply: the lane, as in `lanes`, and now. events: none.
function ops.lane_follow(a)
  local record = edit(a.lane)
  if a.version > record.version then set(record, a.status, a.version) end
  Records.settle()
  return { items = { Lanes.depth(a.lane) }, now = Call.now }
end

-- lanes: a page of lanes. args: cursor, limit. reply: {items: [{lane, status, depth, oldest_ready_at}], now}
function ops.lanes(a)
  Records.settle()
  local items = {}
  for i, lane in ipairs(Lanes.page(a.cursor, a.limit)) do items[i] = Lanes.depth(lane) end
  return { items = items, now = Call.now }
end
