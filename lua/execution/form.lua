-- The form in which an execution is stored. What most executions have is packed by position, without names: msgpack
-- values in a row, nil where there is none. The other fields are a map behind them; then comes the log (the history).
-- Releases before 0.2 stored a map with the log behind it.
--
-- Times are stored as milliseconds since the creation: mostly one to three bytes instead of nine.
--
-- Needs: Records.

local FORM = 1

local function open(packed)
  local _, kind, lane, state, seq, created, updated, ready, input, fresh, attempt, attempt_id, started, epoch, worker_id,
    lease_id, ttl, expires, finished, outcome, result, last, rest, log = unpack_msg(packed)
  local x = {
    kind = kind, lane = lane, state = state, seq = seq, created_at = created, updated_at = created + updated,
    ready_at = ready and created + ready, input = input, fresh = fresh, attempt_index = attempt,
    attempt_id = attempt_id, started_at = started and created + started, lease_epoch = epoch, worker_id = worker_id,
    lease_id = lease_id, lease_ttl_ms = ttl, lease_expires_at = expires and created + expires,
    finished_at = finished and created + finished, outcome = outcome, result = result, last = last, log = log,
  }
  if rest then
    for name, value in pairs(rest) do x[name] = value end
  end
  return x
end

local function close(x, log)
  local kind, lane, state, seq, created, updated = x.kind, x.lane, x.state, x.seq, x.created_at, x.updated_at
  local ready, input, fresh, attempt, attempt_id = x.ready_at, x.input, x.fresh, x.attempt_index, x.attempt_id
  local started, epoch, worker_id, lease_id = x.started_at, x.lease_epoch, x.worker_id, x.lease_id
  local ttl, expires, finished = x.lease_ttl_ms, x.lease_expires_at, x.finished_at
  local outcome, result, last = x.outcome, x.result, x.last
  x.kind, x.lane, x.state, x.seq, x.created_at, x.updated_at = nil, nil, nil, nil, nil, nil
  x.ready_at, x.input, x.fresh, x.attempt_index, x.attempt_id = nil, nil, nil, nil, nil
  x.started_at, x.lease_epoch, x.worker_id, x.lease_id = nil, nil, nil, nil
  x.lease_ttl_ms, x.lease_expires_at, x.finished_at = nil, nil, nil
  x.outcome, x.result, x.last = nil, nil, nil
  return pack(FORM, kind, lane, state, seq, created, updated - created, ready and ready - created, input, fresh, attempt,
    attempt_id, started and started - created, epoch, worker_id, lease_id, ttl, expires and expires - created,
    finished and finished - created, outcome, result, last, next(x) and x or nil, log)
end

Records.form('x', open, close)
-- What is suspended may stay so for weeks, and is rarely read.
Records.shorten('x', function(x) return x.state == 'suspended' end)
