-- The scheduler's due work.
--
-- Needs: Blocks, Bulks, Call, Dispatch, Due, Executions, Flows, Graph, Leases, Limits, Schedules, States.
local ops = Ops.scheduler

-- End an execution whose deadline has passed. Only one that has begun can fail; any other is canceled.
local function end_at_deadline(x)
  if Executions.stop_if_asked(x, 'scheduler') then return end
  if x.state == 'running' or x.state == 'retry_wait' or x.state == 'suspended' then
    Executions.expire(x, 'the deadline passed', 'deadline_exceeded')
  else
    x.failure = Executions.failure(x, 'the deadline passed', 'deadline_exceeded')
    Executions.stop(x, 'deadline_exceeded', 'canceled', 'scheduler')
  end
end

-- Do an execution's due work: retire it, or end it at its deadline, take back its grant or make it ready.
local function due_execution(x)
  local now = Call.now
  if States.TERMINAL[x.state] then
    Executions.retire(x)
  elseif x.deadline_at and x.deadline_at <= now then
    end_at_deadline(x)
  elseif x.grant_id and x.grant_expires_at <= now then
    Leases.ungrant(x)
  elseif x.state == 'scheduled' and x.wake_at and x.wake_at <= now then
    x.wake_at = nil
    if x.reason == 'time' then States.transition(x, 'ready', { actor = 'scheduler' }) end
  end
end

local RETIRED = 100   -- members of ended flows that one due call retires at most
local retiring        -- how many more members the running call may retire

local function due_flow(f)
  if f.work_at then
    Graph.resume(f)
  elseif Flows.TERMINAL[f.status] then
    retiring = retiring - Flows.retire(f, retiring)
  elseif f.status == 'created' then
    Flows.give_up(f)
  end
end

-- A limit may have room again: put its blocked queues back.
local function due_block(block) Blocks.open(block.id) end

Due.serve('scheduler', {
  x = due_execution, f = due_flow, block = due_block, wake = Limits.wake, schedule = Schedules.due, bulk = Bulks.due,
})

-- due: handle reached run_at times, schedules, bulk changes, expired grants, deadlines, blocked limits, unfinished graph work of
-- flows (wide fan-outs), and retention. args: limit. See Due.run.
function ops.due(a)
  retiring = RETIRED
  return Due.run('scheduler', a.limit)
end

Dispatch.serve('scheduler')
