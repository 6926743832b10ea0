-- The cancel-reconciler's ops that tell what is still to be stopped.
--
-- Needs: Call, Cancels, Due, Keys, Records.
local ops = Ops.cancel_reconciler

local LISTED = { f = 'x' }   -- the kind that follows each kind in the backlog: flows first, then executions

local function backlog_item(kind, id, at)
  local record = Records.read(kind, id)
  if not record then return nil end
  if kind == 'x' then
    local s = record.stopping or {}
    return { execution_id = id, flow_id = record.flow_id, tries = s.tries or 0, next_at = at, last_error = s.error }
  end
  -- All members of a flow that are not stopped yet make one item.
  if not record.stop_next then return nil end
  local members = redis.call('LLEN', Keys.of('ct', id)) - record.stop_next
  if record.cancel_next then
    members = members + redis.call('ZCOUNT', Keys.of('fl', id), '(' .. record.cancel_next, '+inf')
  end
  return { flow_id = id, members = members, tries = 0, next_at = at }
end

-- backlog: list what is still to be stopped in this partition, earliest next check first. args: kind ('f' flows or 'x'
-- executions), id and at (of the last item seen, optional), limit. reply: {items, next {kind, id, at}}.
function ops.backlog(a)
  Records.settle()
  local items, last = {}, nil
  local key = Due.key('cancel_reconciler', a.kind)
  local rank = a.id and redis.call('ZRANK', key, a.id)
  local found
  if rank then
    found = redis.call('ZRANGE', key, rank + 1, rank + a.limit, 'WITHSCORES')
  else
    found = redis.call('ZRANGE', key, a.at or '-inf', '+inf', 'BYSCORE', 'LIMIT', 0, a.limit, 'WITHSCORES')
  end
  for i = 1, #found, 2 do
    local at = tonumber(found[i + 1])
    items[#items + 1] = backlog_item(a.kind, found[i], at)
    last = { kind = a.kind, id = found[i], at = at }
  end
  if #found < a.limit * 2 then last = LISTED[a.kind] and { kind = LISTED[a.kind] } end
  return { items = items, next = last }
end

-- Return when a flow or execution of the backlog was asked to stop, or ended (its children or members must stop).
local function asked_at(kind, id)
  local record = Records.read(kind, id)
  if not record or kind == 'f' and not record.stop_next then return nil end
  return record.stopping and record.stopping.since or record.finished_at
end

-- backlog_size: count what is still to be stopped in this partition. args: sample (so many of each kind, those to be
-- checked next, are read for their age). reply: {executions, flows, oldest_at (of the sample), now}.
function ops.backlog_size(a)
  Records.settle()
  local count, oldest = {}, nil
  for _, kind in ipairs({ 'x', 'f' }) do
    local key = Due.key('cancel_reconciler', kind)
    -- A flow that was cancelled alone (flow_only) is due with its retention only: nothing has to be stopped before.
    count[kind] = redis.call('ZCOUNT', key, '-inf', kind == 'f' and Call.now + Cancels.HANDOVER_MS or '+inf')
    local ids = redis.call('ZRANGE', key, 0, a.sample - 1)
    Records.prefetch(kind, ids)
    for _, id in ipairs(ids) do
      local at = asked_at(kind, id)
      if at and (not oldest or at < oldest) then oldest = at end
    end
  end
  return { executions = count.x, flows = count.f, oldest_at = oldest, now = Call.now }
end
