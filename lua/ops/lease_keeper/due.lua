-- The lease-keeper's due work.
--
-- Needs: Budgets, Call, Dispatch, Due, Executions, Kinds, Leases, States, Waits, Workers.
local ops = Ops.lease_keeper

local function due_execution(x)
  local now = Call.now
  if x.progress_untold and x.progress_untold.at <= now then Executions.tell_progress(x, x.progress_untold.actor) end
  if x.state == 'retry_wait' then
    if x.wake_at <= now then States.transition(x, 'ready', { actor = 'lease-keeper' }) end
  elseif x.state == 'suspended' then
    if x.park and x.wake_at then
      Waits.due(x)
    elseif x.reason == 'delay' and x.wake_at and x.wake_at <= now then
      Executions.resume(x, 'delay', 'lease-keeper')
    end
  elseif x.lease_id and x.lease_expires_at <= now then
    Leases.lose(x, 'expired', 'lease-keeper')
  elseif x.attempt_expires_at and x.attempt_expires_at <= now and not Executions.stop_if_asked(x, 'lease-keeper') then
    Executions.revoking(x, function()
      Leases.fail(x, 'the attempt took longer than ' .. x.attempt_timeout_ms .. ' ms', 'timeout', true, nil, 'lease-keeper')
    end)
  end
end

Due.serve('lease_keeper', { x = due_execution, budget = Budgets.due, worker = Workers.due, kind = Kinds.due })

-- due: expire leases, end backoffs and delays, time out attempts, send held-back progress events, do the budgets' due
-- work, mark silent workers lost, forget kinds. args: limit. See Due.run.
function ops.due(a) return Due.run('lease_keeper', a.limit) end

Dispatch.serve('lease_keeper')
