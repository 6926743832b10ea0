-- The cancel-reconciler's op that cancels an execution, and the rules by which one is stopped.
--
-- An execution without a worker is canceled at once. A worker that holds one is asked to stop, repeatedly; after the
-- grace its lease is revoked. Until then the execution is in the backlog, with x.stopping {since, until_at (end of the
-- grace), tries, error} and x.cancel_at (time of the next check).
--
-- Needs: Call, Executions, States.
local ops = Ops.cancel_reconciler

-- Return the reason that is recorded of a cancellation: 'canceled' if none is given.
function Cancels.why(reason) return reason and reason ~= '' and reason or 'canceled' end

-- Count one more try and schedule the next check. The pause doubles with each try, but ends with the grace at latest.
function Cancels.next_look(x, error)
  local s = x.stopping
  s.tries = s.tries + 1
  s.error = error
  x.cancel_at = Call.now + Executions.pause_ms(s.tries)
  if s.until_at > Call.now then x.cancel_at = math.min(x.cancel_at, s.until_at) end
end

-- Ask the worker that holds the execution to stop. A repeated request may shorten the grace, never prolong it.
local function request(x, reason, grace_ms, actor)
  local until_at = Call.now + grace_ms
  if x.stopping then
    x.stopping.until_at = math.min(x.stopping.until_at, until_at)
  else
    x.cancel_requested, x.cancel_reason = true, reason
    x.stopping = { since = Call.now, until_at = until_at, tries = 0 }
    x.updated_at = Call.now
    Executions.tell(x, 'cancel_requested', { reason = reason, actor = actor, data = { grace_ms = grace_ms } })
  end
  Call.hint_item('cancel', { x.worker_id, x.id, x.lease_id })
  Cancels.next_look(x)
end

-- Stop an execution that has not ended: cancel it, or ask its worker to stop within the grace. Without a grace, nothing is
-- undone either.
function Cancels.stop(x, reason, grace_ms, actor)
  if grace_ms == 0 then
    Executions.stop(x, reason, 'canceled', actor, true)
  elseif States.HELD[x.state] and not x.ending then
    request(x, reason, grace_ms, actor)
  elseif not x.ending then
    Executions.stop(x, reason, 'canceled', actor)
  end
end

-- cancel: cancel an execution. args: execution_id, reason, grace_ms. reply: {state}.
-- errors: execution_not_found, already_terminal. events: canceled, or cancel_requested when a worker holds it.
function ops.cancel(a)
  local x = Executions.edit(a.execution_id)
  if x.state ~= 'canceled' then
    States.check(x, 'canceled')
    Cancels.stop(x, Cancels.why(a.reason), a.grace_ms, nil)
  end
  return { state = x.state }
end
