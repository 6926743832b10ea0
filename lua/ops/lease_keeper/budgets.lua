-- The lease-keeper's ops for the use of budgets. The rules are in limit/budgets.lua and lease/breaches.lua.
--
-- Needs: Breaches, Budgets, Errors, Executions, Fences, Records.
local ops = Ops.lease_keeper

-- budget_get: return a budget, to check that it exists. args: budget_id. reply: the budget. errors: budget_not_found.
-- events: budget reset, if its period is over.
function ops.budget_get(a) return Budgets.view(Budgets.read(a.budget_id)) end

-- usage_fence: first step of lease.usage, in the execution's partition: check that the lease may report to the budget.
-- args: fence, budget_id, strict (a lease that has ended is an error).
-- reply: {over}: true if an earlier usage report has ended this very lease (never with `strict`).
-- errors: fence errors, budget_not_found (the execution does not list it). events: none.
function ops.usage_fence(a)
  local held = Fences.hold(a, not a.strict and 'usage' or nil)
  local limit = Executions.read(a.execution_id).limit
  if not limit or not string.find(limit, 'b/' .. a.budget_id, 1, true) then
    Errors.raise('budget_not_found', { budget_id = a.budget_id }, 'the execution does not list this budget')
  end
  return { over = not held }
end

-- usage: second step, in the budget's partition: add the report to the budget. args: budget_id, execution_id, lease_id,
-- dimensions, dedup_key, over (from usage_fence). reply: {status, dimensions, breach, dimension}, see Budgets.use.
-- errors: budget_not_found, invalid_request, budget_exceeded.
-- events: budget usage, soft_breach or hard_breach (and reset).
function ops.usage(a)
  local b = Budgets.edit(a.budget_id)
  return Budgets.use(b, a.execution_id .. '|' .. a.lease_id, a.dimensions, a.dedup_key, a.over, 'execution:' .. a.execution_id)
end

-- budget_breach: third step, in the execution's partition: end the lease after a hard breach. args: execution_id,
-- lease_id, budget_id, breach (suspend | fail), dimension, tell_worker. reply: {state, suspended}. errors: none.
-- events: suspended, failed or canceled.
function ops.budget_breach(a)
  local x = Records.edit('x', a.execution_id)
  if not x then return { suspended = false } end
  local state, suspended = Breaches.stop(x, a)
  return { state = state, suspended = suspended }
end

-- budget_resume: resume a suspended execution, as its budget has room again. args: execution_id, lease_id, budget_id.
-- errors: none. events: resumed.
function ops.budget_resume(a)
  local x = Records.edit('x', a.execution_id)
  if x then Breaches.resume(x, a.budget_id, a.lease_id) end
end

-- budget_settle: last step, in the budget's partition: record which members (`<execution>|<lease>`) were stopped and
-- resumed. args: budget_id, stopped [[member, suspended]], resumed [member]. errors, events: none.
function ops.budget_settle(a) Budgets.settle(a.budget_id, a.stopped, a.resumed) end
