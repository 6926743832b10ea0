-- The signal-router's due work: time out suspensions, expire and retire waitpoints, end the waits of flows.
--
-- Needs: Call, Dispatch, Due, Executions, FlowWaits, Waitpoints.
local ops = Ops.signal_router

local ACTOR = 'signal-router'

-- What to do when a suspension times out, per timeout_behavior.
local TIMEOUT = {}

function TIMEOUT.fail(x)
  Executions.expire(x, 'the suspension timed out', 'suspension_timeout')
end

function TIMEOUT.cancel(x) Executions.cancel(x, 'suspension_timeout', 'canceled', ACTOR) end

function TIMEOUT.resume(x) Executions.resume(x, 'timeout', ACTOR) end

-- Emit one `escalated` event, so that somebody takes a look; the suspension then goes on without a timeout.
function TIMEOUT.escalate(x)
  x.wake_at, x.on_timeout = nil, nil
  x.updated_at = Call.now
  Executions.tell(x, 'escalated', { reason = 'suspension_timeout', actor = ACTOR, data = { waitpoint_id = x.waiting_on } })
end

local function due_execution(x)
  if x.state == 'suspended' and x.on_timeout and x.wake_at and x.wake_at <= Call.now then TIMEOUT[x.on_timeout](x) end
end

local function due_waitpoint(w)
  if w.state == 'pending' then
    if w.expires_at <= Call.now then Waitpoints.expire(w) end
  elseif w.retire_at and w.retire_at <= Call.now then
    Waitpoints.retire(w)
  end
end

Due.serve('signal_router', { x = due_execution, w = due_waitpoint, f = FlowWaits.due })

-- due: time out suspensions, expire pending waitpoints, retire ended ones, end waits of flows.
-- args: limit. See Due.run.
function ops.due(a) return Due.run('signal_router', a.limit) end

Dispatch.serve('signal_router')
