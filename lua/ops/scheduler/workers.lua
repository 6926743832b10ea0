-- The scheduler's look at workers.
--
-- Needs: Workers.

-- worker_list: the scheduler's look at who can do what. args: cursor, limit, budget, lane,
-- status. reply: see Workers.page.
function Ops.scheduler.worker_list(a) return Workers.page(a) end
