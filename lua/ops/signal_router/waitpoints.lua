-- The signal-router's ops that show waitpoints and their signals, or close waitpoints, and an operator's ops that suspend
-- or resume an execution.
--
-- Needs: Errors, Executions, Keys, Lists, Records, States, Waitpoints, Waits.
local ops = Ops.signal_router

local ACTOR = 'operator'

local function view(w)
  return {
    waitpoint_id = w.id, execution_id = w.execution_id, key = w.key, state = w.state, condition = w.condition,
    tally = next(w.tally) and w.tally or nil, created_at = w.created_at, expires_at = w.expires_at,
  }
end

-- Errors: waitpoint_not_found.
local function read(id)
  local w = Records.read('w', id)
  if not w or not w.execution_id then Errors.raise('waitpoint_not_found', { waitpoint_id = id }) end
  return w
end

-- waitpoint_get: args: waitpoint_id. reply: the waitpoint. errors: waitpoint_not_found.
function ops.waitpoint_get(a) return view(read(a.waitpoint_id)) end

-- waitpoint_list: list the waitpoints of an execution or of a namespace, newest first. args: execution_id, namespace,
-- status, cursor (an id), limit, budget (records to look at). reply: {items, cursor}.
function ops.waitpoint_list(a)
  Records.settle()
  local keys, live = {}, {}
  if a.execution_id then
    keys[1] = Keys.waitpoints_of(a.execution_id)
    local x = Records.read('x', a.execution_id)
    for id in pairs(x and x.waitpoints or {}) do live[#live + 1] = id end
  else
    for _, status in ipairs(a.status and { a.status } or Waitpoints.STATUSES) do
      keys[#keys + 1] = Keys.waitpoints(a.namespace, status)
    end
  end
  local ids, cursor = Lists.merge('w', keys, a.cursor, a.limit, a.budget, function(id)
    local w = Records.read('w', id)
    return w and (not a.status or Waitpoints.status(w) == a.status)
  end, nil, live)
  return Lists.page(ids, cursor, function(id) return view(Records.read('w', id)) end)
end

-- signal_list: list the signals that a waitpoint keeps, in the order of arrival. args: waitpoint_id, skip, limit.
-- reply: {items (each with `satisfied`), more}. errors: waitpoint_not_found.
function ops.signal_list(a)
  local items, more = Waitpoints.kept(read(a.waitpoint_id), a.skip, a.limit)
  return { items = items, more = more }
end

-- waitpoint_close: close a pending waitpoint; it then refuses signals. args: waitpoint_id, reason.
-- reply: the waitpoint.
-- errors: waitpoint_not_found, illegal_transition (its execution waits on it). events: waitpoint closed.
function ops.waitpoint_close(a)
  local w = read(a.waitpoint_id)
  if w.state == 'open' then
    Errors.raise('illegal_transition', { from = 'active', to = 'closed', execution_id = w.execution_id },
      'its execution waits on it: resume or cancel that')
  end
  if w.state == 'pending' then Waitpoints.close(Records.edit('w', w.id), a.reason ~= '' and a.reason or nil) end
  return view(w)
end

-- hold: an operator suspends a running execution. args: execution_id, reason. reply: {state}.
-- errors: execution_not_found, illegal_transition, already_terminal. events: suspended (or canceled).
function ops.hold(a)
  local x = Executions.edit(a.execution_id)
  States.check(x, 'suspended')
  Executions.revoking(x, function()
    if Executions.cancel_if_asked(x, ACTOR) then return end
    States.transition(x, 'suspended', { reason = 'operator', actor = ACTOR, data = { reason = a.reason ~= '' and a.reason or nil } })
  end)
  return { state = x.state }
end

-- resume: an operator resumes a suspended execution, whatever it waits for. args: execution_id, reason. reply: {state}.
-- errors: execution_not_found, illegal_transition, already_terminal. events: resumed.
function ops.resume(a)
  local x = Executions.edit(a.execution_id)
  if x.state ~= 'suspended' then
    if States.TERMINAL[x.state] then Errors.raise('already_terminal', { state = x.state, outcome = x.outcome }) end
    Errors.raise('illegal_transition', { from = x.state, to = 'ready' })
  end
  local was = x.reason
  Waits.skip(x)
  Executions.resume(x, 'operator', ACTOR, { was = was, reason = a.reason ~= '' and a.reason or nil })
  return { state = x.state }
end
