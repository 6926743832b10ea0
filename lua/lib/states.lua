-- The nine states of an execution (contract §2) and the only place that changes one.

local MOVES = {
  scheduled = { ready = true, canceled = true },
  ready = { leased = true, canceled = true },
  leased = { running = true, ready = true, canceled = true },
  running = { retry_wait = true, suspended = true, completed = true, failed = true, canceled = true, ready = true },
  retry_wait = { ready = true, failed = true, canceled = true },
  suspended = { ready = true, failed = true, canceled = true },
  completed = {}, failed = {}, canceled = {},
}

States.TERMINAL = { completed = true, failed = true, canceled = true }
States.HELD = { leased = true, running = true }

-- Refuses a move that the table does not know. Ops call it before they write anything.
-- Errors: already_terminal, illegal_transition {from, to}.
function States.check(x, to)
  if MOVES[x.state][to] then return end
  if States.TERMINAL[x.state] then Errors.raise('already_terminal', { state = x.state, outcome = x.outcome }) end
  Errors.raise('illegal_transition', { from = x.state, to = to })
end

-- Moves an execution: its fields, its event, and whoever waits for it. about: {reason (of the state), event
-- (default: the state's name), why (the event's reason), data, actor, outcome}. Indexes follow by placement.
function States.transition(x, to, about)
  States.check(x, to)
  if x.progress_untold then Executions.tell_progress(x, x.progress_untold.actor) end
  local from = x.state
  x.state = to
  x.reason = about.reason
  x.updated_at = Call.now
  if States.HELD[from] and not States.HELD[to] then
    Leases.drop(x)
  end
  if x.slot and not States.HELD[to] then Limits.free(x, from == 'running') end
  x.grant_id, x.grant_expires_at, x.grant_worker = nil, nil, nil
  if to == 'ready' then
    x.ready_at = Call.now
    x.wake_at, x.wake_by = nil, nil
  elseif States.TERMINAL[to] then
    x.finished_at = Call.now
    x.outcome = about.outcome or to
    x.wake_at = nil
    if x.waited then
      Call.hint_item('done', x)
      x.waited = nil
    end
    if x.parent_id then Children.ended(x) end
  end
  Executions.tell(x, about.event or to, {
    from = from, to = to, reason = about.why or about.reason, data = about.data, actor = about.actor,
  })
  if x.waitpoints or x.waiting_on or x.woken_by then Waitpoints.execution_moved(x, from, to) end
  if x.flow_id then Graph.member_moved(x, from, to) end
end
