-- The cancel-reconciler's due work: make sure that what was asked to stop really stops.
--
-- Needs: Call, Cancels, Children, Dispatch, Due, Errors, Executions, Flows, Records, States.
local ops = Ops.cancel_reconciler

local ACTOR = 'cancel-reconciler'
local CHILD_GRACE_MS = 10000   -- grace of the children whose parent has ended

local function revoke(id)
  local x = Records.edit('x', id)
  Executions.stop(x, x.cancel_reason, 'canceled', ACTOR)
end

-- Handle a due execution. After its end, stop the next of its children. If its worker was asked to stop and has not,
-- ask again; once the grace is over, revoke the lease.
local function due_execution(x)
  if x.closing then
    for _, id in ipairs(Children.next_closing(x, Cancels.SLICE)) do
      local child = Records.read('x', id)
      if child and not States.TERMINAL[child.state] then
        Cancels.stop(Records.edit('x', id), 'parent_' .. x.state, CHILD_GRACE_MS, 'execution:' .. x.id)
      end
    end
    return
  end
  if not x.cancel_at or x.cancel_at > Call.now then return end
  if x.ending or Executions.undoing(x) then return Cancels.next_look(x, 'its compensations have not ended') end
  if x.stopping.until_at > Call.now then
    Call.hint_item('cancel', { x.worker_id, x.id, x.lease_id })
    Cancels.next_look(x, 'worker ' .. x.worker_id .. ' has not stopped yet')
    return
  end
  local ok, err = Records.attempt(revoke, x.id)
  if not ok then
    x = Records.edit('x', x.id)
    Cancels.next_look(x, Errors.text(err))
    return Errors.text(err)
  end
end

local room   -- how many members the running due call may still stop

local function due_flow(f)
  if not f.cancel_at or f.cancel_at > Call.now then return end
  -- The retention of a flow that was cancelled alone is over: stop its members that have not begun.
  if not f.stop_next then Flows.stop_members(f, Call.now) end
  f.cancel_at = Call.now
  if room > 0 then room = room - Cancels.walk(f, room) end
end

Due.serve('cancel_reconciler', { f = due_flow, x = due_execution })

-- due: check executions whose workers were asked to stop, stop children of ended parents, walk cancelled flows whose
-- handler has died. args: limit. See Due.run.
function ops.due(a)
  room = Cancels.SLICE
  return Due.run('cancel_reconciler', a.limit)
end

Dispatch.serve('cancel_reconciler')
