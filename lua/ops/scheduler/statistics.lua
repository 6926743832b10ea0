-- The scheduler's ops that read statistics. The audit-relay writes them (lane/statistics.lua).
--
-- Needs: Call, Statistics.
local ops = Ops.scheduler

-- lane_minutes: return the texts of a lane's minutes, in no order. args: lane ('*': of all lanes). reply: {now, texts}.
-- errors, events: none.
function ops.lane_minutes(a) return { now = Call.now, texts = Statistics.minutes(a.lane) } end

-- failure_groups: return the texts of the failure groups, the last failure first. args: group (an id: this one only).
-- reply: {texts}. errors, events: none.
function ops.failure_groups(a)
  if a.group then return { texts = { Statistics.group(a.group) or nil } } end
  return { texts = Statistics.groups() }
end
