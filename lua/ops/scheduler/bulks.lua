-- The scheduler's ops for bulk changes. The rules are in schedule/bulks.lua.
--
-- Needs: Bulks, Executions, Idempotency, Keys, Lists, Payloads, Records.
local ops = Ops.scheduler

-- bulk_create: args: id, namespace, filter (JSON text), action, reason, grace_ms, priority, tags, name, payload,
-- waitpoint_key, rate, most, idempotency_key, digest. reply: the bulk change.
-- errors: invalid_request (too many run), idempotency_conflict. events: bulk created.
function ops.bulk_create(a)
  local existing = Records.read('bulk', a.id)
  if existing then return Bulks.view(existing) end
  return Idempotency.once('bulk', a.namespace, a, function() return Bulks.view(Bulks.create(a.id, a)) end)
end

-- bulk_get: args: bulk_id. reply: the bulk change, with its payload. errors: bulk_not_found. events: none.
function ops.bulk_get(a)
  local b = Bulks.read(a.bulk_id)
  local view = Bulks.view(b)
  view.payload = Payloads.of(b, 'payload')
  return view
end

-- bulk_list: list bulk changes, newest first. args: status, cursor (an id), limit, budget. reply: {items, cursor}.
-- errors, events: none.
function ops.bulk_list(a)
  Records.settle()
  local keys = {}
  for _, status in ipairs(a.status and { a.status } or { 'running', 'finished', 'stopped' }) do keys[#keys + 1] = Keys.bulks(status) end
  local ids, cursor = Lists.merge('bulk', keys, a.cursor, a.limit, a.budget, function(id) return Records.read('bulk', id) ~= nil end)
  return Lists.page(ids, cursor, function(id) return Bulks.view(Records.read('bulk', id)) end)
end

-- bulk_stop: args: bulk_id. reply: the bulk change. errors: bulk_not_found. events: bulk stopped.
function ops.bulk_stop(a)
  Bulks.read(a.bulk_id)
  local b = Records.edit('bulk', a.bulk_id)
  Bulks.stop(b)
  return Bulks.view(b)
end

-- bulk_advance: note a step that the `due` op handed out. A late or repeated call does nothing.
-- args: bulk_id, step, cursor, looked, done, refused, last_error, looked_to, pause_ms. reply: none.
-- events: bulk progress, finished.
function ops.bulk_advance(a)
  local b = Records.edit('bulk', a.bulk_id)
  if b then Bulks.advance(b, a) end
end

-- cancel: as the cancel-reconciler's op, for bulk changes. args: execution_id, reason, grace_ms. reply: {state}.
function ops.cancel(a) return Ops.cancel_reconciler.cancel(a) end

-- Run `change(a)` once for a bulk change and an execution. A step that was killed is repeated, and by then the execution
-- may have its next lease, or be in its next wait: those are none of the bulk change's. A repeat replies with the state,
-- and as a repeated signal does.
local function once(a, change)
  local x = Executions.edit(a.execution_id)
  if Bulks.changed(x, a.bulk_id) then return { state = x.state, effect = 'duplicate', signal_id = a.signal_id } end
  local reply = change(a)
  Bulks.note(x, a.bulk_id)
  return reply
end

-- bulk_hold: as the signal-router's op, once for a bulk change. args: execution_id, reason, bulk_id. reply: {state}.
function ops.bulk_hold(a) return once(a, Ops.signal_router.hold) end

-- bulk_resume: as the signal-router's op, once for a bulk change. args: execution_id, reason, bulk_id. reply: {state}.
function ops.bulk_resume(a) return once(a, Ops.signal_router.resume) end

-- bulk_revoke: as the lease-keeper's op, once for a bulk change. args: execution_id, reason, bulk_id. reply: {state}.
function ops.bulk_revoke(a) return once(a, Ops.lease_keeper.revoke) end

-- bulk_send: as the signal-router's op, once for a bulk change. args: execution_id, waitpoint_key, signal_id, name, payload,
-- reason, bulk_id. reply: {effect, signal_id}.
function ops.bulk_send(a) return once(a, Ops.signal_router.send) end
