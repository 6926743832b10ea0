-- Budgets: a limit per dimension (tokens, money …) on the total usage of all executions that list the budget.
--
-- A record: dimensions {name: {soft, hard}}, used {name: n}, on_hard (suspend | fail | deny), reset_every_ms, reset_at
-- (next reset), look_at (when the lease-keeper's due loop has work), deleted (limits nothing; removed when nobody is
-- held). A budget is *exhausted* when a dimension has reached its hard limit: no execution that lists the budget is
-- handed out (token b/<id>, limit/limits.lua). A report *breaches* a limit when the new total is above the limit.
--
-- A hard breach must stop the reporting execution, which may be in another partition: two steps that repair themselves.
-- The report that passes the limit adds the member `<execution>|<lease>` to `breaches`. The lease-keeper ends that
-- lease in its partition (`breach`) and reports back (`settle`): the member moves to `held` if the execution was
-- suspended, else it is dropped. It leaves `held` when its execution was resumed. Each step may be repeated; the due
-- loop hands out late ones again.
--
-- Needs: Call, Due, Errors, Events, Keys, Limits, Places, Records.

local REPAIR_MS = 2000          -- a step that was not reported back after this time is repeated
-- Blocked executions look again after this time, in case the wake-up after a reset or replenishment was lost.
local LOOK_AGAIN_MS = 10000
local SLICE = 100               -- members that one due call hands out, of `breaches` and of `held`
local DEDUP_MS = 86400000       -- how long a dedup_key is remembered
local MAX = 2 ^ 53              -- doubles count exactly up to here

local function token(id) return 'b/' .. id end
local function look(b, at) b.look_at = b.look_at and math.min(b.look_at, at) or at end

local function in_use(b)
  for _, n in pairs(b.used) do
    if n > 0 then return true end
  end
  return false
end

Places.define('budget', function(b)
  local at = b.look_at
  if b.reset_at and in_use(b) and (not at or b.reset_at < at) then at = b.reset_at end
  return at and { [Due.key('lease_keeper', 'budget')] = at } or {}
end)

local function exhausted(b)
  if b.deleted then return false end
  for name, limits in pairs(b.dimensions) do
    if (b.used[name] or 0) >= limits.hard then return true end
  end
  return false
end

local function tell(b, event, about)
  b.updated_at = Call.now
  Events.emit('budget', b, event, about)
end

-- If the budget is no longer exhausted, wake executions that wait for it, and make the due loop resume suspended ones.
local function opened(b)
  if exhausted(b) then return end
  Limits.opened(token(b.id))
  if redis.call('ZCARD', Keys.budget('held', b.id)) > 0 then look(b, Call.now) end
end

local function clear(b, reason)
  local used = b.used
  b.used = {}
  tell(b, 'reset', { reason = reason, data = next(used) and { used = used } or nil })
  opened(b)
end

-- Reset the budget if its period is over. Nothing runs at that very moment, so every reader of the budget calls this.
local function roll(b)
  if not b.reset_at or b.reset_at > Call.now or b.deleted then return end
  Records.edit('budget', b.id)
  b.reset_at = b.reset_at + (math.floor((Call.now - b.reset_at) / b.reset_every_ms) + 1) * b.reset_every_ms
  if in_use(b) then clear(b, 'period') end
end

-- Return a budget for reading, reset if its period is over. Errors: budget_not_found.
function Budgets.read(id)
  local b = Records.read('budget', id)
  if not b or b.deleted then Errors.raise('budget_not_found', { budget_id = id }) end
  roll(b)
  return b
end

-- Return a budget for changing. Errors: budget_not_found.
function Budgets.edit(id)
  Budgets.read(id)
  return Records.edit('budget', id)
end

-- Return nil if executions may begin under this budget; else the error's code and when to look again (ms, absolute).
function Budgets.room(id)
  local b = Records.read('budget', id)
  if not b then return nil end
  roll(b)
  if not exhausted(b) then return nil end
  return 'budget_exceeded', math.min(Call.now + LOOK_AGAIN_MS, b.reset_at or math.huge)
end

function Budgets.create(id, a)
  local b = Records.create('budget', id, {
    namespace = a.namespace ~= 'default' and a.namespace or nil, dimensions = a.dimensions, used = {}, on_hard = a.on_hard,
    reset_every_ms = a.reset_every_ms, reset_at = a.reset_every_ms and Call.now + a.reset_every_ms, created_at = Call.now,
  })
  tell(b, 'created', { data = { dimensions = b.dimensions, on_hard = b.on_hard, reset_every_ms = b.reset_every_ms } })
  return b
end

function Budgets.view(b)
  local dimensions = {}
  for name, limits in pairs(b.dimensions) do
    dimensions[name] = { used = b.used[name] or 0, soft = limits.soft, hard = limits.hard }
  end
  return {
    budget_id = b.id, namespace = b.namespace or 'default', dimensions = dimensions, on_hard = b.on_hard,
    reset_every_ms = b.reset_every_ms, reset_at = b.reset_at, exhausted = exhausted(b),
    suspended = redis.call('ZCARD', Keys.budget('held', b.id)), created_at = b.created_at, updated_at = b.updated_at,
  }
end

-- Refuse amounts of unknown dimensions, or amounts with which a value passes MAX. now(name): the present value.
-- Errors: invalid_request.
local function check(b, amounts, field, now)
  for name, amount in pairs(amounts) do
    if not b.dimensions[name] then Errors.invalid('dimensions.' .. name, 'the budget has no such dimension') end
    if now(name) + amount > MAX then Errors.invalid('dimensions.' .. name, field .. ' would pass 2^53') end
  end
end

-- Raise the limits by these amounts. Errors: invalid_request.
function Budgets.replenish(b, amounts)
  check(b, amounts, 'the limit', function(name) return b.dimensions[name].hard end)
  for name, amount in pairs(amounts) do
    local limits = b.dimensions[name]
    limits.hard = limits.hard + amount
    if limits.soft then limits.soft = limits.soft + amount end
  end
  tell(b, 'replenished', { data = { dimensions = amounts } })
  opened(b)
end

function Budgets.reset(b) clear(b, 'requested') end

-- Mark the budget deleted: it limits nothing from now on. The due loop deletes the record later.
function Budgets.delete(b)
  b.deleted = true
  tell(b, 'deleted', {})
  opened(b)
  look(b, Call.now)
end

-- Judge a report against all dimensions. Return the status, the event and the breached dimension. The event is a breach
-- only if this very report passed the limit.
local function judge(b, deltas)
  local status, event, which = 'ok', 'usage', nil
  for name, limits in pairs(b.dimensions) do
    local before = b.used[name] or 0
    local after = before + (deltas[name] or 0)
    if after > limits.hard then
      status, which = 'hard_breach', name
      if before <= limits.hard then event = 'hard_breach' end
    elseif limits.soft and after > limits.soft then
      if status == 'ok' then status = 'soft_breach' end
      if before <= limits.soft and event == 'usage' then event = 'soft_breach' end
    end
  end
  return status, event, which
end

local function totals(b)
  local dimensions = {}
  for name, limits in pairs(b.dimensions) do
    dimensions[name] = { current = b.used[name] or 0, limit = limits.hard, soft = limits.soft }
  end
  return dimensions
end

-- Add a usage report of `member` (`<execution>|<lease>`). deltas: {name: amount}; dedup_key: reports with the same key
-- count once; over: the lease has ended, so only a repeated report is answered ({unknown = true} for others).
-- Return {status, dimensions, breach (on_hard, if the reporter must be stopped), dimension}.
-- Errors: invalid_request, budget_exceeded {dimension, current, hard}.
function Budgets.use(b, member, deltas, dedup_key, over, actor)
  check(b, deltas, 'the total', function(name) return b.used[name] or 0 end)
  local dedup = dedup_key and Keys.budget('dedup', b.id) .. ':' .. dedup_key
  if dedup and redis.call('EXISTS', dedup) == 1 then
    local open = redis.call('ZSCORE', Keys.budget('breaches', b.id), member)
    return { status = 'already_applied', dimensions = totals(b), breach = open and b.on_hard or nil }
  end
  if over then return { unknown = true } end
  local status, event, which = judge(b, deltas)
  if b.on_hard == 'deny' then
    for name, delta in pairs(deltas) do
      local current, hard = b.used[name] or 0, b.dimensions[name].hard
      if delta > 0 and current + delta > hard then
        Errors.raise('budget_exceeded', {
          dimension = name, current = current, hard = hard, retry_after_ms = b.reset_at and b.reset_at - Call.now or nil,
        })
      end
    end
  end
  for name, delta in pairs(deltas) do b.used[name] = (b.used[name] or 0) + delta end
  tell(b, event, { actor = actor, data = {
    execution_id = string.match(member, '^[^|]+'), dimensions = deltas, used = b.used, dimension = which,
  } })
  if dedup then redis.call('SET', dedup, '', 'PX', DEDUP_MS) end
  local breach
  if status == 'hard_breach' and b.on_hard ~= 'deny' then
    breach = b.on_hard
    redis.call('ZADD', Keys.budget('breaches', b.id), Call.now + REPAIR_MS, member)
    look(b, Call.now + REPAIR_MS)
  end
  return { status = status, dimensions = totals(b), breach = breach, dimension = which }
end

-- The due loop's part: reset the budget, and hand out late breaches and a slice of the members to be resumed.
function Budgets.due(b)
  roll(b)
  if not b.look_at or b.look_at > Call.now then return end
  b.look_at = nil
  local late = redis.call('ZRANGEBYSCORE', Keys.budget('breaches', b.id), '-inf', Call.now, 'LIMIT', 0, SLICE)
  local resume = exhausted(b) and {} or redis.call('ZRANGE', Keys.budget('held', b.id), 0, SLICE - 1)
  if #late + #resume > 0 then
    Due.outside({ budget_id = b.id, breach = b.on_hard, late = late, resume = resume })
    look(b, Call.now + REPAIR_MS)
    return
  end
  local first = redis.call('ZRANGE', Keys.budget('breaches', b.id), 0, 0, 'WITHSCORES')[2]
  if first then
    look(b, tonumber(first))
  elseif b.deleted then
    Records.delete('budget', b.id)
  end
end

-- Take note of handled members. stopped: [[member, suspended (boolean)]] of `breaches`; resumed: [member] of `held`.
function Budgets.settle(id, stopped, resumed)
  local b = Records.edit('budget', id)
  if not b then return end
  for _, each in ipairs(stopped) do
    -- Only the first report about a member moves it.
    if redis.call('ZREM', Keys.budget('breaches', id), each[1]) == 1 and each[2] then
      redis.call('ZADD', Keys.budget('held', id), Call.now, each[1])
    end
  end
  if #resumed > 0 then redis.call('ZREM', Keys.budget('held', id), unpack(resumed)) end
  local held = redis.call('ZCARD', Keys.budget('held', id))
  if (held > 0 and not exhausted(b)) or (held == 0 and b.deleted) then look(b, Call.now) end
end

-- Describe a budget, for a caller who asks what holds an execution back.
local function describe(id)
  local b = Records.read('budget', id)
  if not b then return { kind = 'budget', id = id, exhausted = false } end
  local view = Budgets.view(b)
  return { kind = 'budget', id = id, exhausted = view.exhausted, dimensions = view.dimensions, reset_at = view.reset_at }
end

Limits.without_slots('b', Budgets.room, describe)
