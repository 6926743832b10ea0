-- Breaches: stop an execution whose usage report passed a budget's hard limit, and resume it later. This is the part in
-- the execution's partition; limit/budgets.lua is the part in the budget's.
--
-- Needs: Call, Executions, Fences, Leases, States.

local function holds(x, id, lease_id)
  local held = x.held_by
  return x.state == 'suspended' and x.reason == 'budget' and held and held.budget_id == id and held.lease_id == lease_id
end

-- End the lease under which a hard limit was passed: suspend the execution, or fail it for good. tell_worker: the
-- worker does not know yet. Return the state, and whether the execution is suspended by this breach.
function Breaches.stop(x, a)
  if x.lease_id == a.lease_id then
    local worker_id = x.worker_id
    local actor, data = 'worker:' .. worker_id, { budget_id = a.budget_id, dimension = a.dimension }
    -- Only a running execution can be suspended or fail.
    if x.state == 'leased' then Leases.start(x) end
    if Executions.cancel_if_asked(x, actor) then
      -- It has ended as canceled.
    elseif a.breach == 'fail' then
      x.failure = Executions.failure(x, 'the hard limit of budget ' .. a.budget_id .. ' was passed', 'budget_exceeded')
      data.reason = x.failure.reason
      Executions.conclude(x, 'failed', { why = 'budget_exceeded', data = data, actor = actor })
    else
      States.transition(x, 'suspended', { reason = 'budget', data = data, actor = actor })
      x.held_by = { budget_id = a.budget_id, lease_id = a.lease_id }
    end
    Fences.consume(x, a, 'usage', {})
    if a.tell_worker then
      x.lost = { lease_id = a.lease_id, why = 'revoked' }
      Call.hint_item('cancel', { worker_id, x.id, a.lease_id })
    end
  end
  return x.state, holds(x, a.budget_id, a.lease_id) or false
end

-- A suspended execution was resumed otherwise, or has ended: its budget, which lists it, must drop it. If this hint is
-- lost, the budget drops it when it tries to resume it.
function Breaches.left(x)
  local held = x.held_by
  x.held_by = nil
  Call.hint_item('unheld', { held.budget_id, x.id .. '|' .. held.lease_id })
end

-- The budget has room again: suspended(budget) → ready, unless the execution has already moved on.
function Breaches.resume(x, id, lease_id)
  if not holds(x, id, lease_id) then return end
  x.held_by = nil
  Executions.resume(x, 'budget', 'lease-keeper', { budget_id = id })
end
