-- Budgets: so much of each dimension may be used by all executions that list the budget, together.
--
-- A record: dimensions {name: {soft, hard}}, used {name: n}, on_hard (suspend | fail | deny), reset_every_ms, reset_at (the
-- next one), look_at (the lease-keeper's due loop has work), deleted (limits nothing, and leaves when nobody is held).
-- A budget is *exhausted* when a dimension has reached its hard limit: no execution that lists it is handed out
-- (token b/<id>, limit/limits.lua). A report *breaches* a limit when the total is above it.
--
-- What a hard breach does to its reporter leads into another partition: two steps that repair themselves. The report
-- that passes the limit leaves `<execution>|<lease>` in `breaches`; the keeper ends that lease there (`breach`) and tells
-- (`settle`), which moves the member to `held` or drops it. From `held` it goes when its execution was resumed. Every
-- step may be repeated, and what nobody told of in time the due loop hands out again.
--
-- Needs: Call, Due, Errors, Events, Keys, Limits, Records.

local REPAIR_MS = 2000
-- How long a reset or a replenishment can go unnoticed where its wake-up was lost.
local LOOK_AGAIN_MS = 10000
local SLICE = 100
local DEDUP_MS = 86400000
local MAX = 2 ^ 53

local function token(id) return 'b/' .. id end
local function look(b, at) b.look_at = b.look_at and math.min(b.look_at, at) or at end

local function in_use(b)
  for _, n in pairs(b.used) do
    if n > 0 then return true end
  end
  return false
end

Records.define('budget', function(b)
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

-- There may be room again: who waits may try, who was suspended comes back.
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

-- The period is over; there is nobody to do it at that very moment, so whoever looks does it.
local function roll(b)
  if not b.reset_at or b.reset_at > Call.now or b.deleted then return end
  Records.edit('budget', b.id)
  b.reset_at = b.reset_at + (math.floor((Call.now - b.reset_at) / b.reset_every_ms) + 1) * b.reset_every_ms
  if in_use(b) then clear(b, 'period') end
end

-- As it is now. Errors: budget_not_found.
function Budgets.read(id)
  local b = Records.read('budget', id)
  if not b or b.deleted then Errors.raise('budget_not_found', { budget_id = id }) end
  roll(b)
  return b
end

-- To change. Errors: budget_not_found.
function Budgets.edit(id)
  Budgets.read(id)
  return Records.edit('budget', id)
end

-- Whether more may be begun under this budget; if not, the error that says why and when to look again.
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

-- Refuses amounts that the budget cannot take. Errors: invalid_request.
local function check(b, amounts, field, now)
  for name, amount in pairs(amounts) do
    if not b.dimensions[name] then Errors.invalid('dimensions.' .. name, 'the budget has no such dimension') end
    if now(name) + amount > MAX then Errors.invalid('dimensions.' .. name, field .. ' would pass 2^53') end
  end
end

-- Raises the limits. Errors: invalid_request.
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

-- Limits nothing from now on.
function Budgets.delete(b)
  b.deleted = true
  tell(b, 'deleted', {})
  opened(b)
  look(b, Call.now)
end

-- What a report makes of each dimension: the status, and the event, which names a limit that this very report passed.
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

-- Adds a report of `member` (`<execution>|<lease>`). deltas: {name: amount}; dedup_key: reports with the same count once.
-- over: the lease has ended, so only a repeat is answered ({unknown = true} otherwise).
-- Returns {status, dimensions, breach (on_hard, if the reporter must be stopped), dimension}.
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

-- The due loop's share: resets, breaches that nobody told of, and a slice of those who may go on.
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

-- What became of breaches and of those that were to be resumed. stopped: [[member, suspended]], resumed: [member].
function Budgets.settle(id, stopped, resumed)
  local b = Records.edit('budget', id)
  if not b then return end
  for _, each in ipairs(stopped) do
    -- Only the first to tell moves it.
    if redis.call('ZREM', Keys.budget('breaches', id), each[1]) == 1 and each[2] then
      redis.call('ZADD', Keys.budget('held', id), Call.now, each[1])
    end
  end
  if #resumed > 0 then redis.call('ZREM', Keys.budget('held', id), unpack(resumed)) end
  local held = redis.call('ZCARD', Keys.budget('held', id))
  if (held > 0 and not exhausted(b)) or (held == 0 and b.deleted) then look(b, Call.now) end
end

-- How it stands, for whoever wonders what holds an execution back.
local function describe(id)
  local b = Records.read('budget', id)
  if not b then return { kind = 'budget', id = id, exhausted = false } end
  local view = Budgets.view(b)
  return { kind = 'budget', id = id, exhausted = view.exhausted, dimensions = view.dimensions, reset_at = view.reset_at }
end

Limits.without_slots('b', Budgets.room, describe)
