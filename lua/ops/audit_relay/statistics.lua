-- The audit-relay's ops for statistics: it counts what enters the audit stream, and writes it down (lane/statistics.lua).
--
-- Needs: Records, Statistics.
local ops = Ops.audit_relay

-- facts: return what events do not tell of executions. args: ids.
-- reply: {items [{lane, kind, ready_at, started_at}, or false where there is no such execution]}. errors, events: none.
function ops.facts(a)
  Records.prefetch('x', a.ids)
  local items = {}
  for i, id in ipairs(a.ids) do
    local x = Records.read('x', id)
    items[i] = x and { x.lane, x.kind, x.ready_at or 0, x.started_at or 0 } or false
  end
  return { items = items }
end

-- statistics_read: return what is written so far. args: minutes [{lane, minute}], groups [id].
-- reply: {minutes, groups}: texts in the same order, false where there is none. errors, events: none.
function ops.statistics_read(a)
  local minutes, groups = {}, {}
  for i, each in ipairs(a.minutes) do minutes[i] = Statistics.minute(each[1], each[2]) end
  for i, id in ipairs(a.groups) do groups[i] = Statistics.group(id) end
  return { minutes = minutes, groups = groups }
end

-- statistics_write: write it down anew. args: minutes [{lane, minute, text}], groups [{id, text, at}].
-- reply, errors, events: none.
function ops.statistics_write(a)
  for _, each in ipairs(a.minutes) do Statistics.keep_minute(each[1], each[2], each[3]) end
  for _, each in ipairs(a.groups) do Statistics.keep_group(each[1], each[2], each[3]) end
end
