-- The lease-keeper's ops that end a lease: outcomes and suspensions. Once cancellation was requested, any outcome or
-- suspension that a worker reports ends the execution as canceled.
--
-- Needs: Call, Children, Errors, Executions, Fences, Leases, Payloads, Quotas, States, Unique, Waits.
local ops = Ops.lease_keeper

-- Create the execution that goes on in place of one that completes now: like it, with another input.
-- Errors: invalid_request (a member of a flow).
local function continue(x, next, actor)
  if x.flow_id then Errors.invalid('continues', 'a member of a flow has its place in the graph: it ends here') end
  local spec = Executions.spec_of(x)
  spec.input, spec.traceparent = next.input, x.traceparent
  x.continued_by = next.execution_id
  Waits.child_continues(x, next.execution_id)
  -- It is created before this one ends, so that a parent never sees its last child ended.
  local y = Executions.create(next.execution_id, spec, {
    namespace = x.namespace, parent_id = x.parent_id, parent_close = x.parent_close, parent_entry = x.parent_entry,
    unique_key = x.unique_key, continues = x.id, actor = actor,
  })
  if x.unique_key then Unique.pass(x, y) end
end

-- complete: the work is done. args: fence, result, children ([{execution_id, …spec}], created in the same step), next
-- ({execution_id, input}: created in the same step, to go on in place of this one), orphans, drift (keys of the journal
-- that the event tells of).
-- reply: {state, children (their ids, if any), continued_by}. errors: fence errors, illegal_transition, invalid_request.
-- events: completed (or canceled: then no child is created), what follows from that in a flow; created for each child.
-- A draining lane accepts the children: they are part of the work that it has to finish.
function ops.complete(a)
  local x, repeated = Fences.hold(a, 'complete')
  if not x then return repeated end
  States.check(x, 'completed')
  local specs = a.children
  if specs then
    for i, spec in ipairs(specs) do Executions.check_spec(spec, 'children[' .. i - 1 .. '].') end
  end
  local actor = 'worker:' .. x.worker_id
  local reply = {}
  if not Executions.cancel_if_asked(x, actor) then
    Payloads.hold(x, 'result', a.result)
    if a.next then continue(x, a.next, actor) end
    local data, brief = Executions.attempt_data(x), Executions.brief_completed
    if x.continued_by or a.orphans or a.drift then
      brief = nil
      data = { attempt_index = x.attempt_index, continued_by = x.continued_by, orphans = a.orphans, drift = a.drift }
    end
    States.transition(x, 'completed', { actor = actor, data = data, brief = brief })
    reply.continued_by = x.continued_by
    if specs then reply.children = Children.create(x, specs, actor) end
  end
  reply.state = x.state
  return Fences.consume(x, a, 'complete', reply)
end

-- fail: the attempt failed. args: fence, reason, category, retryable, retry_after_ms.
-- reply: {outcome, ready_at, next_attempt}. errors: fence errors, illegal_transition. events: retry_wait or failed.
function ops.fail(a)
  local x, repeated = Fences.hold(a, 'fail')
  if not x then return repeated end
  States.check(x, 'failed')
  local actor = 'worker:' .. x.worker_id
  local reply = { outcome = 'terminal_failed' }
  local undone = not a.retryable and Executions.undone(x)
  if not Executions.cancel_if_asked(x, actor, undone) then
    reply = Leases.fail(x, a.reason, a.category, a.retryable, a.retry_after_ms, actor, undone)
  end
  return Fences.consume(x, a, 'fail', reply)
end

-- cancel: the worker gives up the work for good. args: fence, reason. reply: {state}. errors: fence errors.
-- events: canceled.
function ops.cancel(a)
  local x, repeated = Fences.hold(a, 'cancel')
  if not x then return repeated end
  local reason = a.reason or x.cancel_reason or 'canceled'
  Executions.cancel(x, reason, 'canceled', 'worker:' .. x.worker_id, Executions.undone(x))
  return Fences.consume(x, a, 'cancel', { state = x.state })
end

-- delay: running → suspended(delay) until a time, then ready; the same attempt goes on. A time in the past resumes the
-- execution at once: clocks differ, so it is not the caller's mistake. args: fence, until.
-- reply: {state}. errors: fence errors, illegal_transition. events: suspended, resumed (or canceled).
function ops.delay(a)
  local x, repeated = Fences.hold(a, 'delay')
  if not x then return repeated end
  States.check(x, 'suspended')
  local actor, at = 'worker:' .. x.worker_id, a['until']
  if not Executions.cancel_if_asked(x, actor) then
    States.transition(x, 'suspended', { reason = 'delay', actor = actor, data = { until_at = at } })
    if at > Call.now then
      x.wake_at, x.wake_by = at, 'lease_keeper'
    else
      Executions.resume(x, 'delay', 'lease-keeper')
    end
  end
  return Fences.consume(x, a, 'delay', { state = x.state })
end

-- await_children: running → suspended(children) until every child is terminal, then ready; the same attempt goes on.
-- Without open children the execution resumes at once, so that a worker always sees the same steps.
-- args: fence. reply: {state}. errors: fence errors, illegal_transition. events: suspended, resumed (or canceled).
function ops.await_children(a)
  local x, repeated = Fences.hold(a, 'await_children')
  if not x then return repeated end
  States.check(x, 'suspended')
  local actor = 'worker:' .. x.worker_id
  if not Executions.cancel_if_asked(x, actor) then
    local open = x.children_open or 0
    States.transition(x, 'suspended', { reason = 'children', actor = actor, data = { children_open = open } })
    if open == 0 then Executions.resume(x, 'children', 'lease-keeper') end
  end
  return Fences.consume(x, a, 'await_children', { state = x.state })
end

-- namespace: return the namespace that an execution's children will have. args: execution_id. reply: {namespace}.
-- errors: execution_not_found.
function ops.namespace(a) return { namespace = Executions.read(a.execution_id).namespace or 'default' } end

-- quota_get: return a quota, to check that it exists before children are created under it. args: quota_id.
-- reply: the quota. errors: quota_not_found.
function ops.quota_get(a) return Quotas.view(Quotas.read(a.quota_id)) end
