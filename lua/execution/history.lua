-- An execution's history: its events, packed, one behind the other. Three of them are nearly all, and say little that
-- the record does not say. These are stored *briefly*, as [number, code, …], and written out when they are read. All
-- others, and those that earlier releases stored, are as in the outbox: arrays of eight whose second item is the name.
--
-- The functions that pack an event briefly are called when it has its number, x.seq.
--
-- Needs: Call.

local CREATED, STARTED, COMPLETED = 1, 2, 3
local created = '\146\1\1'    -- the first event; its time, kind and lane are the record's
local last_started, last_completed = {}, {}   -- what the brief event that was packed last tells; in a batch it is mostly the same

-- Return the event `created` of a ready execution, briefly.
function Executions.brief_created() return created end

-- Return the event `started` of an execution that is leased and begun in one step, briefly.
function Executions.brief_started(x)
  local seq, after, worker_id, ttl, attempt, epoch =
    x.seq, Call.now - x.created_at, x.worker_id, x.lease_ttl_ms, x.attempt_index, x.lease_epoch
  local last = last_started
  if seq ~= last.seq or after ~= last.after or worker_id ~= last.worker_id or ttl ~= last.ttl or attempt ~= last.attempt
    or epoch ~= last.epoch then
    last.seq, last.after, last.worker_id, last.ttl, last.attempt, last.epoch = seq, after, worker_id, ttl, attempt, epoch
    last.packed = '\151' .. pack(seq, STARTED, after, worker_id, ttl, attempt, epoch)
  end
  return last.packed
end

-- Return the event `completed`, briefly.
function Executions.brief_completed(x)
  local seq, after, worker_id, attempt = x.seq, Call.now - x.created_at, x.worker_id, x.attempt_index
  local last = last_completed
  if seq ~= last.seq or after ~= last.after or worker_id ~= last.worker_id or attempt ~= last.attempt then
    last.seq, last.after, last.worker_id, last.attempt = seq, after, worker_id, attempt
    last.packed = '\149' .. pack(seq, COMPLETED, after, worker_id, attempt)
  end
  return last.packed
end

-- Return a brief event as an array of eight; nil if it is none.
function Executions.written_out(x, event)
  local seq, code, after, worker_id = event[1], event[2], event[3], event[4]
  if code == CREATED then
    return { seq, 'created', x.created_at, '', '', 'ready', '', { kind = x.kind, lane = x.lane } }
  end
  local at = x.created_at + (after or 0)
  if code == STARTED and event[7] then
    return { seq, 'started', at, 'worker:' .. worker_id, 'ready', 'running', '', {
      via = 'leased', worker_id = worker_id, lease_epoch = event[7], lease_expires_at = at + event[5],
      attempt_index = event[6],
    } }
  elseif code == COMPLETED and event[5] then
    return { seq, 'completed', at, 'worker:' .. worker_id, 'running', 'completed', '', { attempt_index = event[5] } }
  end
end
