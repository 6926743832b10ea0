-- The scheduler's ops that create, change and delete budgets. The rules are in limit/budgets.lua.
--
-- Needs: Budgets, Idempotency, Records.
local ops = Ops.scheduler

-- budget_create: args: id, dimensions, on_hard, reset_every_ms, namespace, idempotency_key, digest. reply: the budget.
-- errors: idempotency_conflict. events: budget created.
function ops.budget_create(a)
  local existing = Records.read('budget', a.id)
  if existing then return Budgets.view(existing) end
  return Idempotency.once('budget', a.namespace, a, function() return Budgets.view(Budgets.create(a.id, a)) end)
end

-- budget_get: args: budget_id. reply: the budget. errors: budget_not_found.
-- events: budget reset, if its period is over.
function ops.budget_get(a) return Budgets.view(Budgets.read(a.budget_id)) end

-- budget_replenish: raise the budget; executions that it held back go on. args: budget_id, dimensions {name: amount},
-- idempotency_key, digest. reply: the budget. errors: budget_not_found, invalid_request, idempotency_conflict.
-- events: budget replenished.
function ops.budget_replenish(a)
  return Idempotency.once('replenish', a.budget_id, a, function()
    local b = Budgets.edit(a.budget_id)
    Budgets.replenish(b, a.dimensions)
    local reply = Budgets.view(b)
    return reply
  end)
end

-- budget_reset: set what is used to 0; executions that the budget held back go on. args: budget_id. reply: the budget.
-- errors: budget_not_found. events: budget reset.
function ops.budget_reset(a)
  local b = Budgets.edit(a.budget_id)
  Budgets.reset(b)
  return Budgets.view(b)
end

-- budget_delete: delete the budget; executions that it held back go on. args: budget_id. reply: the budget as it was.
-- errors: budget_not_found. events: budget deleted.
function ops.budget_delete(a)
  local b = Budgets.edit(a.budget_id)
  local view = Budgets.view(b)
  Budgets.delete(b)
  return view
end
