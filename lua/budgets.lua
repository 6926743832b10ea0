-- Ops about budgets: the scheduler's (their life) and the lease-keeper's (their use). The rules stand in lib/budgets.lua.
local scheduler, keeper = Ops.scheduler, Ops.lease_keeper

-- budget_create: args: id, dimensions, on_hard, reset_every_ms, namespace, idempotency_key, digest. reply: the budget.
-- errors: idempotency_conflict. events: budget created.
function scheduler.budget_create(a)
  local existing = Records.read('budget', a.id)
  if existing then return Budgets.view(existing) end
  local kept = Idempotency.check('budget', a.namespace, a.idempotency_key, a.digest)
  if kept then
    kept.duplicate = true
    return kept
  end
  local reply = Budgets.view(Budgets.create(a.id, a))
  Idempotency.keep('budget', a.namespace, a.idempotency_key, a.digest, reply)
  return reply
end

-- budget_get: args: budget_id. reply: the budget. errors: budget_not_found. events: reset, when its period is over.
function scheduler.budget_get(a) return Budgets.view(Budgets.read(a.budget_id)) end

-- The same for the keeper, which needs to know whether a budget is there.
keeper.budget_get = scheduler.budget_get

-- budget_replenish: raises the limits; who was held back comes back. args: budget_id, dimensions {name: amount},
-- idempotency_key, digest. reply: the budget. errors: budget_not_found, invalid_request, idempotency_conflict.
-- events: budget replenished.
function scheduler.budget_replenish(a)
  local kept = Idempotency.check('replenish', a.budget_id, a.idempotency_key, a.digest)
  if kept then
    kept.duplicate = true
    return kept
  end
  local b = Budgets.edit(a.budget_id)
  Budgets.replenish(b, a.dimensions)
  local reply = Budgets.view(b)
  Idempotency.keep('replenish', a.budget_id, a.idempotency_key, a.digest, reply)
  return reply
end

-- budget_reset: nothing is used any more; who was held back comes back. args: budget_id. reply: the budget.
-- errors: budget_not_found. events: budget reset.
function scheduler.budget_reset(a)
  local b = Budgets.edit(a.budget_id)
  Budgets.reset(b)
  return Budgets.view(b)
end

-- budget_delete: limits nothing from now on; who was held back comes back. args: budget_id. reply: the budget as it was.
-- errors: budget_not_found. events: budget deleted.
function scheduler.budget_delete(a)
  local b = Budgets.edit(a.budget_id)
  local view = Budgets.view(b)
  Budgets.delete(b)
  return view
end

-- usage_fence: first step of lease.usage, where the execution is: may this lease report to this budget?
-- args: fence, budget_id, strict. reply: {over}: a report has ended this very lease; not with `strict`.
-- errors: fence errors, budget_not_found (the execution does not list it). events: none.
function keeper.usage_fence(a)
  local held = Fences.hold(a, not a.strict and 'usage' or nil)
  local limit = Executions.read(a.execution_id).limit
  if not limit or not string.find(limit, 'b/' .. a.budget_id, 1, true) then
    Errors.raise('budget_not_found', { budget_id = a.budget_id }, 'the execution does not list this budget')
  end
  return { over = not held }
end

-- usage: second step, where the budget is: the report counts. args: budget_id, execution_id, lease_id, dimensions, dedup_key,
-- over, worker. reply: {status, dimensions, breach, dimension}, see Budgets.use.
-- errors: budget_not_found, invalid_request, budget_exceeded. events: budget usage, soft_breach or hard_breach (and reset).
function keeper.usage(a)
  local b = Budgets.edit(a.budget_id)
  return Budgets.use(b, a.execution_id .. '|' .. a.lease_id, a.dimensions, a.dedup_key, a.over, 'execution:' .. a.execution_id)
end

-- budget_breach: third step, where the execution is: the lease ends. args: execution_id, lease_id, budget_id, breach (suspend |
-- fail), dimension, urge. reply: {state, suspended}. errors: none. events: suspended, failed or canceled.
function keeper.budget_breach(a)
  local x = Records.edit('x', a.execution_id)
  if not x then return { suspended = false } end
  local state, suspended = Budgets.breach(x, a)
  return { state = state, suspended = suspended }
end

-- budget_resume: there is room again. args: execution_id, lease_id, budget_id. reply: {}. errors: none. events: resumed.
function keeper.budget_resume(a)
  local x = Records.edit('x', a.execution_id)
  if x then Budgets.resume(x, a.budget_id, a.lease_id) end
  return {}
end

-- budget_settle: last step, where the budget is. args: budget_id, stopped [[member, suspended]], resumed [member]. reply: {}.
-- errors, events: none.
function keeper.budget_settle(a)
  Budgets.settle(a.budget_id, a.stopped, a.resumed)
  return {}
end
