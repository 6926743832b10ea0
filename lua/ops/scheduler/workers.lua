-- The scheduler's look at workers.
--
-- Needs: Workers.

-- workers: the scheduler's look at who can do what. args, reply: see Workers.page.
function Ops.scheduler.workers(a) return Workers.page(a) end
