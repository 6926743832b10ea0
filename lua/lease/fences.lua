-- Fences: a worker verb that does not name the current lease is refused and changes nothing.
--
-- Needs: Call, Errors, Executions, States.

-- Raise the most precise error for a fence that does not name the current lease.
-- Errors: execution_not_active, lease_expired, lease_revoked, stale_lease, no_active_lease.
local function refuse(x, a)
  if States.TERMINAL[x.state] then
    Errors.raise('execution_not_active', {
      terminal_outcome = x.outcome, lease_epoch = x.lease_epoch or 0, lifecycle_phase = x.state, attempt_id = x.attempt_id,
    })
  end
  if x.lost and x.lost.lease_id == a.lease_id then
    Errors.raise(x.lost.why == 'revoked' and 'lease_revoked' or 'lease_expired', { lease_epoch = x.lease_epoch })
  end
  if x.lease_id or (x.last and x.last.lease_id == a.lease_id) then
    Errors.raise('stale_lease', { lease_epoch = x.lease_epoch })
  end
  Errors.raise('no_active_lease', { state = x.state })
end

-- Check the fence a: {execution_id, attempt_index, lease_id, lease_epoch}. Return its execution for changing; or nil
-- and the first reply when `verb` has already consumed this lease (the worker repeats it after a lost reply).
-- Errors: execution_not_found and those of `refuse`.
function Fences.hold(a, verb)
  local x = Executions.edit(a.execution_id)
  if x.lease_id == a.lease_id and x.lease_epoch == a.lease_epoch and x.attempt_index == a.attempt_index then
    if x.lease_expires_at <= Call.now then Errors.raise('lease_expired', { expires_at = x.lease_expires_at }) end
    return x
  end
  local last = x.last
  if verb and last and last.lease_id == a.lease_id and last.verb == verb then return nil, last.reply end
  refuse(x, a)
end

-- Keep the reply of the verb that consumed this lease, for repeats. Return the reply.
function Fences.consume(x, a, verb, reply)
  x.last = { lease_id = a.lease_id, verb = verb, reply = reply }
  return reply
end
