-- Memory: at Valkey's maxmemory, ops that create something are refused; ops that end or free something still run.
--
-- Needs: Call.

-- The ops, of any service, that store something new: only these are refused.
local GROWS = {
  create = true, create_mirrored = true, replay = true, remember = true, schedule_create = true, schedule_fire = true,
  flow_create = true, flow_add = true, quota_create = true, budget_create = true, frame = true, observe = true,
  apply = true, rule_put = true, rule_flow = true, event_come = true, journal_append = true, copy_journal = true,
  fork = true, schedule_trigger = true, bulk_create = true, kinds_tell = true, statistics_write = true,
}
-- Asking Valkey costs about 20 µs, so its answer is used for this long.
local LOOK_MS = 100

local looked_at, refusal = 0, nil
local asked_at = 0   -- time of the call that asked last: the clock stands still within a call

-- Return the number behind a name in the text of INFO, or 0. (A pattern would be tried at every byte of the text.)
local function number(info, name)
  local _, at = string.find(info, '\n' .. name .. ':', 1, true)
  return at and tonumber(string.match(info, '^%d+', at + 1)) or 0
end

local function look()
  -- Where the service's Valkey user may not run INFO, nothing is refused, and Valkey grows past its maxmemory.
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' then return nil end
  local limit, used = number(info, 'maxmemory'), number(info, 'used_memory')
  local apart = number(info, 'mem_not_counted_for_evict')
  if limit == 0 or used - apart < limit then return nil end
  return {
    code = 'valkey_unavailable',
    message = 'Valkey is out of memory (maxmemory): give it more, or wait until work has ended and left',
    detail = { retry_after_ms = 1000, used_memory = used, maxmemory = limit },
  }
end

-- Return the error {code, message, detail} if this op may not run for lack of memory, else nil.
function Memory.refusal(op)
  if not GROWS[op] then return nil end
  local now = Call.now
  if now ~= asked_at then
    asked_at = now
    if math.abs(now - looked_at) >= LOOK_MS then looked_at, refusal = now, look() end
  end
  return refusal
end
