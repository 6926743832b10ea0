-- The lease-keeper's ops about workers.
--
-- Needs: Errors, Records, Workers.
local ops = Ops.lease_keeper

-- worker_register: a worker begins. args: worker_id, lanes, capabilities, version, heartbeat_ms. reply: the worker.
-- events: worker registered.
function ops.worker_register(a)
  local w = Workers.seen(a)
  w.status = 'active'
  Workers.registered(w)
  return Workers.view(w)
end

-- worker_heartbeat: it is still there; one that is not known (any more) is registered by it.
-- args: worker_id, lanes, capabilities, version, heartbeat_ms, status (active | draining | stopped: what it says of itself).
-- reply: the worker; status draining means that it is to drain. events: registered, draining, stopped.
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

-- worker_drain: it is to finish what it has and ask for no more. args: worker_id. reply: the worker.
-- errors: invalid_request. events: worker draining.
function ops.worker_drain(a)
  local w = Records.edit('worker', a.worker_id)
  if not w then Errors.invalid('worker_id', 'there is no such worker') end
  if w.status == 'active' then Workers.move(w, 'draining', { actor = 'operator' }) end
  return Workers.view(w)
end

-- worker_list: a page of this partition's workers. args: cursor, limit, budget, lane, status. reply: see Workers.page.
function ops.worker_list(a) return Workers.page(a) end

-- worker_held: how many leases they hold here. args: ids. reply: {held (in their order)}.
function ops.worker_held(a) return { held = Workers.held(a.ids) } end
