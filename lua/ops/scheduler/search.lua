-- The scheduler's op that finds executions by a filter.
--
-- Needs: Call, Executions, Keys, Lanes, Lists, Records.
local ops = Ops.scheduler

-- The most sorted sets that one look merges. With more lanes and states, all executions are looked at instead.
local MERGED = 32
local HELD = { 'leased', 'running' }   -- the states in which an execution has a lease

local function has(text, part) return text ~= nil and string.find(string.lower(text), part, 1, true) ~= nil end

local function has_text(x, text)
  if has(x.id, text) or has(x.kind, text) then return true end
  for name, value in pairs(x.tags or {}) do
    if has(name, text) or has(value, text) then return true end
  end
  return false
end

local function tagged(x, tag)
  local name, value = string.match(tag, '^([^=]*)=?(.*)$')
  local has = x.tags and x.tags[name]
  return has ~= nil and (not string.find(tag, '=', 1, true) or has == value)
end

local function within(at, from, before)
  if from and not (at and at >= from) then return false end
  return not before or (at ~= nil and at < before)
end

local function matches(x, a, states)
  return (not a.namespace or (x.namespace or 'default') == a.namespace)
    and (not a.lane or x.lane == a.lane)
    and (not a.kind or x.kind == a.kind)
    and (not a.kind_prefix or string.sub(x.kind, 1, #a.kind_prefix) == a.kind_prefix)
    and (not states or states[x.state] ~= nil)
    and (not a.flow_id or x.flow_id == a.flow_id)
    and (not a.parent_id or x.parent_id == a.parent_id)
    and (not a.tag or tagged(x, a.tag))
    and (not a.worker_id or (x.lease_id ~= nil and x.worker_id == a.worker_id))
    and (not a.category or (x.failure ~= nil and x.failure.category == a.category))
    and (not a.min_attempts or (x.attempt_index or 0) >= a.min_attempts)
    and (not a.max_attempts or (x.attempt_index or 0) <= a.max_attempts)
    and within(x.created_at, a.created_from, a.created_until)
    and within(x.finished_at, a.finished_from, a.finished_until)
    and (not a.text or has_text(x, a.text))
end

-- Return the sets of these lanes and states, or nil if they are too many.
local function by_lane(lanes, states)
  if #lanes * #states > MERGED then return nil end
  local keys = {}
  for _, lane in ipairs(lanes) do
    for _, state in ipairs(states) do keys[#keys + 1] = Keys.state(lane, state) end
  end
  return keys
end

-- Return the sorted sets that together have every execution for which the filter may hold: the narrowest that there are.
local function indexes(a, states)
  if a.parent_id then return { Keys.parent(a.parent_id) } end
  if a.tag then return { Keys.tag(a.tag) } end
  if a.category then return { Keys.failures(a.category) } end
  local keys
  if a.lane then
    keys = by_lane({ a.lane }, states or Lanes.STATES)
  elseif states then
    keys = by_lane(Lanes.page(nil, MERGED + 1), states)
  end
  return keys or { Keys.executions() }
end

-- search: find this partition's executions, newest first.
-- args: namespace, lane, kind, kind_prefix, states, flow_id, parent_id, tag, worker_id, text (lower case), category, min_attempts,
-- max_attempts, created_from, created_until, finished_from, finished_until (all optional), only (an id: look at this
-- one only), cursor (an id), oldest (a uuid: the list ends there), limit, budget.
-- reply: {items (rows), cursor, looked}. At most `budget` executions are read. errors, events: none.
function ops.search(a)
  Records.settle()
  local states = a.states or (a.worker_id and HELD)
  local wanted
  if states then
    wanted = {}
    for _, state in ipairs(states) do wanted[state] = true end
  end
  local looked = 0
  local function keep(id)
    looked = looked + 1
    local x = Records.read('x', id)
    return x ~= nil and matches(x, a, wanted)
  end
  local oldest = a.oldest and Call.partition() .. '-' .. a.oldest
  local ids, cursor
  if a.only then
    ids = keep(a.only) and { a.only } or {}
  elseif a.flow_id and not a.tag and not a.parent_id then
    ids, cursor = Lists.backwards(Keys.of('fl', a.flow_id), a.cursor, a.limit, a.budget, keep)
  else
    ids, cursor = Lists.merge('x', indexes(a, states), a.cursor, a.limit, a.budget, keep, oldest)
  end
  local page = Lists.page(ids, cursor, function(id) return Executions.row(Records.read('x', id)) end)
  page.looked = looked
  return page
end
