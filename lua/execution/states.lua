-- The nine states of an execution (contract §2), and the only function that changes one. Reactions: reactions.lua.
--
-- Needs: Call, Errors, Executions.

local MOVES = {
  scheduled = { ready = true, canceled = true },
  ready = { leased = true, running = true, canceled = true },
  leased = { running = true, ready = true, canceled = true },
  running = { retry_wait = true, suspended = true, completed = true, failed = true, canceled = true, ready = true },
  retry_wait = { ready = true, failed = true, canceled = true },
  suspended = { ready = true, failed = true, canceled = true },
  completed = {}, failed = {}, canceled = {},
}

local react   -- react(x, from, to): called after the event of a move was emitted

function States.when_moved(f) react = f end

local TERMINAL = Executions.TERMINAL
States.TERMINAL = TERMINAL
States.HELD = { leased = true, running = true }

-- Refuse a move that is not in MOVES. Ops call this before they write anything.
-- Errors: already_terminal, illegal_transition {from, to}.
function States.check(x, to)
  if MOVES[x.state][to] then return end
  if States.TERMINAL[x.state] then Errors.raise('already_terminal', { state = x.state, outcome = x.outcome }) end
  Errors.raise('illegal_transition', { from = x.state, to = to })
end

-- Move an execution: change its fields, emit its event, run the reactions. about: {reason (of the state), event
-- (default: the state's name), why (the event's reason), data, brief (see Executions.note), actor, outcome}. The
-- placement updates the indexes.
function States.transition(x, to, about)
  local from, now = x.state, Call.now
  if not MOVES[from][to] then States.check(x, to) end
  if x.progress_untold then Executions.tell_progress(x, x.progress_untold.actor) end
  x.state = to
  x.reason = about.reason
  x.updated_at = now
  if x.grant_id then x.grant_id, x.grant_expires_at, x.grant_worker = nil, nil, nil end
  if x.aside then x.aside = nil end
  if to == 'ready' then
    x.ready_at = now
    x.wake_at, x.wake_by = nil, nil
  elseif TERMINAL[to] then
    x.finished_at = now
    x.outcome = about.outcome or to
    x.wake_at = nil
    Executions.ended(x)
  end
  Executions.note(x, about.event or to, about.actor, from, to, about.why or about.reason, about.data, about.brief)
  react(x, from, to)
end

-- Give a scheduled execution another reason to wait; the state stays. about: {event, actor}.
function States.waits(x, reason, about)
  x.reason = reason
  x.updated_at = Call.now
  Executions.tell(x, about.event, { reason = reason, actor = about.actor })
end
