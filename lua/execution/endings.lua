-- Ends that are no completion: canceled, or failed from outside. An execution whose journal has compensations does not end
-- yet: it becomes ready, and the worker that takes it runs nothing but them; then it ends as was decided. If that is
-- interrupted more often than an execution may be reclaimed, it ends all the same.
--
-- x.ending {to, about, tries}: how it ends after its compensations; about: as for States.transition.
--
-- Needs: Call, Records, States.

-- Return whether a worker has something to undo before this execution ends.
local function owes(x) return x.journal ~= nil and x.journal.undo == true and x.attempt_index ~= nil end

-- Return whether a worker runs, or has run, the compensations.
function Executions.undoing(x) return x.journal ~= nil and x.journal.undoing == true end

-- Return whether a worker that gives up has left nothing to undo.
function Executions.undone(x) return not owes(x) or Executions.undoing(x) end

local FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1000, 60000

-- Return the pause after so many tries to end an execution, from 1 on: each is twice as long as the one before.
function Executions.pause_ms(tries) return math.min(FIRST_PAUSE_MS * 2 ^ (tries - 1), LONGEST_PAUSE_MS) end

-- Give the execution to the next worker: at once, or after the pause that so many tries have.
local function hand_on(x, why, actor, tries)
  if x.state == 'suspended' then
    Executions.resume(x, why, actor)
  elseif x.state == 'running' and tries > 0 then
    local ready_at = Call.now + Executions.pause_ms(tries)
    States.transition(x, 'retry_wait', { why = why, actor = actor, data = {
      category = 'compensations', reason = 'the compensations were interrupted', attempt_index = x.attempt_index, ready_at = ready_at,
    } })
    x.wake_at = ready_at
  elseif States.HELD[x.state] then
    local data = { worker_id = x.worker_id, lease_epoch = x.lease_epoch }
    x.via = 'reclaim'
    States.transition(x, 'ready', { event = 'reclaimed', why = why, actor = actor, data = data })
  elseif x.state == 'retry_wait' then
    x.fresh = nil
    States.transition(x, 'ready', { why = why, actor = actor })
  end
end

-- Leave the end to a worker, who undoes before it. Return false if that was tried too often.
local function undo_first(x, to, about)
  local ending = x.ending
  if ending and not States.HELD[x.state] then return true end
  local tries = ending and ending.tries + 1 or 0
  if tries > Executions.max_reclaims(x) then return false end
  if not ending then
    Executions.tell(x, 'compensating', { reason = about.why, actor = about.actor, data = { to = to } })
    if to == 'canceled' then x.cancel_requested, x.cancel_reason = true, about.why end
    ending = { to = to, about = about }
    x.ending = ending
  end
  ending.tries = tries
  hand_on(x, about.why, about.actor, tries)
  x.stopping = { since = Call.now, until_at = Call.now, tries = tries }
  x.cancel_at = Call.now + Executions.pause_ms(1)
  return true
end

-- End an execution as failed or canceled; or, unless it is undone, leave that to a worker if its journal has compensations.
function Executions.conclude(x, to, about, undone)
  if not undone and owes(x) and undo_first(x, to, about) then return end
  local ending = x.ending
  x.ending = nil
  if ending then to, about = ending.to, ending.about end
  States.transition(x, to, about)
end

-- Return whether the execution is to end: cancellation was requested, for it or for its whole flow, or it is only to be
-- undone. A cancelled flow's members are canceled one after another, so the flow's status counts before its member is
-- reached.
function Executions.canceling(x)
  if x.cancel_requested or x.ending then return true end
  local f = x.flow_id and Records.read('f', x.flow_id)
  return f ~= nil and f.status == 'cancelled' and f.cancel_policy == 'cancel_all'
end

-- End an execution as canceled, from any state that is not terminal. outcome: 'canceled' or 'skipped'. undone: its worker
-- has run its compensations, or none are wanted.
-- Errors: already_terminal.
function Executions.cancel(x, why, outcome, actor, undone)
  Executions.conclude(x, 'canceled', { outcome = outcome, why = why, actor = actor }, undone)
end

-- If the execution is to end, end it, whatever its worker reports. Return whether that was so.
function Executions.cancel_if_asked(x, actor, undone)
  if not Executions.canceling(x) then return false end
  Executions.cancel(x, x.cancel_reason or 'canceled', 'canceled', actor, undone)
  return true
end

-- Run move(), which takes the execution from its worker, if it has one. Tell that worker that its lease is revoked.
function Executions.revoking(x, move)
  local lease_id, worker_id = x.lease_id, x.worker_id
  move()
  if lease_id then
    x.lost = { lease_id = lease_id, why = 'revoked' }
    Call.hint_item('cancel', { worker_id, x.id, lease_id })
  end
end

-- Cancel the execution, and tell the worker that holds its lease.
function Executions.stop(x, why, outcome, actor, undone)
  Executions.revoking(x, function() Executions.cancel(x, why, outcome, actor, undone) end)
end

-- If the execution is to end, do the same. Return whether that was so.
function Executions.stop_if_asked(x, actor)
  if not Executions.canceling(x) then return false end
  Executions.revoking(x, function() Executions.cancel_if_asked(x, actor) end)
  return true
end

-- Fail the execution because its time is up, and tell the worker that holds its lease. category: of the failure.
function Executions.expire(x, reason, category)
  x.failure = Executions.failure(x, reason, category)
  local about = { why = category, data = { category = category, reason = reason } }
  Executions.revoking(x, function() Executions.conclude(x, 'failed', about) end)
end
