-- Fences: a worker verb that does not name the current lease is refused and changes nothing.
--
-- Needs: Call, Errors, Executions, States.

local ended = {}   -- state -> the reply {state}, packed: a cache, since most outcomes are an end that says no more

local function pack_ended(state)
  local packed = pack({ state = state })
  ended[state] = packed
  return packed
end

-- x.last says which verb consumed the last lease: [lease_id, verb, reply], or a map of them where an earlier release wrote
-- it; without a reply where that is only the state that the execution has ended in. Return the three.
local function consumed(x)
  local last = x.last or {}
  return last[1] or last.lease_id, last[2] or last.verb, last[3] or last.reply or { state = x.state }
end

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
  if x.lease_id or consumed(x) == a.lease_id then
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
  local lease_id, by, reply = consumed(x)
  if verb and lease_id == a.lease_id and by == verb then return nil, reply end
  refuse(x, a)
end

-- Keep the reply of the verb that consumed this lease, for repeats. Return the reply, packed or not.
function Fences.consume(x, a, verb, reply)
  local state = type(reply) == 'table' and reply.state
  if States.TERMINAL[state] and next(reply) == 'state' and next(reply, 'state') == nil then
    x.last = { a.lease_id, verb }
    return ended[state] or pack_ended(state)
  end
  x.last = { a.lease_id, verb, reply }
  return reply
end
