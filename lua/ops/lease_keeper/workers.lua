-- The lease-keeper's ops for workers.
--
-- Needs: Errors, Kinds, Records, Workers.
local ops = Ops.lease_keeper

-- worker_register: a worker starts. args: worker_id, lanes, capabilities, kinds, version, heartbeat_ms, slots.
-- reply: the worker. errors: invalid_request (too many workers).
-- events: worker registered.
function ops.worker_register(a)
  local w = Workers.seen(a)
  w.status = 'active'
  Workers.registered(w)
  return Workers.view(w)
end

-- worker_heartbeat: the worker is alive. A heartbeat of an unknown or lost worker registers the worker.
-- args: worker_id, lanes, capabilities, kinds, version, heartbeat_ms, slots, loop_lag_ms, holds, status (reported: active |
-- draining | stopped).
-- reply: the worker; its status draining means that it must drain. errors: invalid_request (too many workers).
-- events: worker registered, draining, stopped.
function ops.worker_heartbeat(a)
  local w, known = Workers.seen(a)
  if not known or w.status == 'lost' then
    w.status = 'active'
    Workers.registered(w)
  end
  local view = Workers.view(w)
  if a.status == 'stopped' then
    Workers.stopped(w)
    view.status = 'stopped'
  elseif a.status == 'draining' then
    Workers.move(w, 'draining', { actor = 'worker:' .. w.id })
    view.status = 'draining'
  end
  return view
end

-- worker_drain: the worker must finish the tasks it has and ask for no more. args: worker_id. reply: the worker.
-- errors: invalid_request. events: worker draining.
function ops.worker_drain(a)
  local w = Records.edit('worker', a.worker_id)
  if not w then Errors.invalid('worker_id', 'there is no such worker') end
  if w.status == 'active' then Workers.move(w, 'draining', { actor = 'operator' }) end
  return Workers.view(w)
end

-- worker_list: list this partition's workers. args: cursor, limit, budget, lane, status. reply: see Workers.page.
function ops.worker_list(a) return Workers.page(a) end

-- worker_held: count the leases that each worker holds in this partition. args: ids. reply: {held (in the ids' order)}.
function ops.worker_held(a) return { held = Workers.held(a.ids) } end

-- kinds_tell: note what a worker tells of its kinds. args: told [{kind, input (JSON text), description}], lanes. reply: none.
-- errors: invalid_request (too many kinds).
function ops.kinds_tell(a)
  for _, told in ipairs(a.told) do Kinds.tell(told, a.lanes) end
end

-- kind_list: list the kinds of which workers have told, by name. args: kind (this one only), cursor, limit.
-- reply: {items, cursor}.
function ops.kind_list(a) return Kinds.page(a.kind, a.cursor, a.limit) end
