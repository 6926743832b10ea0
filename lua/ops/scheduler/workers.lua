-- The scheduler's op for workers.
--
-- Needs: Workers.

-- worker_list: list workers with their lanes and capabilities. args: cursor, limit, budget, lane, status.
-- reply: see Workers.page.
function Ops.scheduler.worker_list(a) return Workers.page(a) end
