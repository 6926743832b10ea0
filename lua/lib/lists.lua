-- Lists: sorted sets of ids, all of them and per lane and state (all scores 0: ids sort by creation time); and the lanes.

-- A page has at least one item, and not more bytes than this with a second one.
local PAGE_BYTES = 512 * 1024

local keys   -- of this call: state -> lane -> key
local all    -- of this call: the key of all executions

function Lists.state_key(lane, state)
  local of = keys[state]
  if not of then
    of = {}
    keys[state] = of
  end
  local key = of[lane]
  if not key then
    key = Call.root .. ':s:' .. lane .. ':' .. state
    of[lane] = key
  end
  return key
end

-- All executions of this partition.
function Lists.all_key()
  all = all or Call.root .. ':all'
  return all
end

-- A tag is found by its name and by `name=value`.
function Lists.tag_key(tag) return Call.root .. ':tag:' .. tag end

function Lists.place_tags(tags, placement)
  for name, value in pairs(tags) do
    placement[Lists.tag_key(name)] = 0
    placement[Lists.tag_key(name .. '=' .. value)] = 0
  end
end

local used   -- lanes that got an execution in this call
local known  -- those of them that are in the index
local left   -- lanes that an execution has left for good in this call

function Lists.begin() used, known, keys, all, left = {}, {}, {}, nil, {} end

local function lanes_key() return Call.root .. ':lanes' end

-- The first execution makes its lane known.
function Lists.lane_used(lane)
  if not used[lane] then Undo.set(used, lane, true) end
end

-- Writes the lanes that were made known.
function Lists.flush()
  for lane in pairs(used) do
    if not known[lane] then
      redis.call('ZADD', lanes_key(), 'NX', 0, lane)
      known[lane] = true
    end
  end
end

-- An execution of this lane has left Valkey.
function Lists.left(lane) left[lane] = true end

-- Lanes without executions leave the index, with what leads to their queues, unless somebody has paused or drains them.
function Lists.forget_lanes()
  for lane in pairs(left) do
    local of = {}
    for i, state in ipairs(Lists.STATES) do of[i] = Lists.state_key(lane, state) end
    if Lists.lane_status(lane) == 'active' and redis.call('EXISTS', unpack(of)) == 0 then
      redis.call('ZREM', lanes_key(), lane)
      Queues.forget(lane)
    end
  end
end

-- Lanes in alphabetical order after `cursor`.
function Lists.lanes(cursor, limit)
  Lists.flush()
  local from = cursor and '(' .. cursor or '-'
  return redis.call('ZRANGE', lanes_key(), from, '+', 'BYLEX', 'LIMIT', 0, limit)
end

function Lists.lane_known(lane) return used[lane] or redis.call('ZSCORE', lanes_key(), lane) ~= false end

-- A lane that somebody paused, drained or resumed once: status (active | paused | draining), version (of the change;
-- lua/lanes.lua), seq.
Records.define('lane', function() return {} end)

function Lists.lane_status(lane)
  local record = Records.read('lane', lane)
  return record and record.status or 'active'
end

-- A paused lane hands nothing out; a draining one hands out what it has.
function Lists.lane_paused(lane) return Lists.lane_status(lane) == 'paused' end

-- Refuses new work for a lane that drains. Errors: execution_not_eligible {lane, lane_status}.
function Lists.admit(lane)
  local status = Lists.lane_status(lane)
  if status == 'draining' then
    Errors.raise('execution_not_eligible', { lane = lane, lane_status = status }, 'lane ' .. lane .. ' is draining: it takes no new work')
  end
end

Lists.STATES = { 'scheduled', 'ready', 'leased', 'running', 'retry_wait', 'suspended', 'completed', 'failed', 'canceled' }

-- How deep a lane is in this partition, per state, and since when its oldest ready execution waits.
function Lists.lane_depth(lane)
  local depth = {}
  for _, state in ipairs(Lists.STATES) do depth[state] = redis.call('ZCARD', Lists.state_key(lane, state)) end
  local oldest = redis.call('ZRANGE', Lists.state_key(lane, 'ready'), 0, 0)[1]
  local x = oldest and Records.read('x', oldest)
  return { lane = lane, status = Lists.lane_status(lane), depth = depth, oldest_ready_at = x and x.ready_at }
end

-- Ids of one sorted set, newest first, before `cursor` (an id).
function Lists.newest(key, cursor, limit)
  local from = cursor and '(' .. cursor or '+'
  return redis.call('ZRANGE', key, from, '-', 'BYLEX', 'REV', 'LIMIT', 0, limit)
end

-- Backwards through one sorted set of executions in the order of its scores: a page as `merge` gives it.
function Lists.backwards(key, cursor, limit, budget, keep)
  local start = 0
  if cursor then
    local rank = redis.call('ZREVRANK', key, cursor)
    if not rank then return {} end
    start = rank + 1
  end
  local found = redis.call('ZREVRANGE', key, start, start + budget - 1)
  Records.prefetch('x', found)
  local page = {}
  for _, id in ipairs(found) do
    if keep(id) then page[#page + 1] = id end
    if #page == limit then return page, id end
  end
  return page, #found == budget and found[budget] or nil
end

-- Newest first over several sorted sets of records of one kind: a page of at most `limit` ids for which `keep(id)`
-- holds, looking at no more than `budget` records. Returns the ids and the cursor (nil at the end).
function Lists.merge(kind, keys, cursor, limit, budget, keep)
  local ids = {}
  local complete_from   -- below this id some set has not been read
  for _, key in ipairs(keys) do
    local found = Lists.newest(key, cursor, budget)
    for _, id in ipairs(found) do ids[#ids + 1] = id end
    if #found == budget then
      local last = found[#found]
      if not complete_from or last > complete_from then complete_from = last end
    end
  end
  table.sort(ids, function(a, b) return a > b end)
  local looked = {}
  for i = 1, math.min(budget, #ids) do looked[i] = ids[i] end
  Records.prefetch(kind, looked)
  local page = {}
  for i, id in ipairs(looked) do
    if complete_from and id < complete_from then break end
    if keep(id) then page[#page + 1] = id end
    if #page == limit or (i == budget and #ids > budget) then return page, id end
  end
  return page, complete_from
end

-- A page as it is answered: what `view(id)` gives, cut before it is more than one message carries, and the cursor.
function Lists.page(ids, cursor, view)
  local items, bytes = {}, 0
  for i, id in ipairs(ids) do
    local item = view(id)
    bytes = bytes + #pack(item)
    if i > 1 and bytes > PAGE_BYTES then return { items = items, cursor = ids[i - 1] } end
    items[i] = item
  end
  return { items = items, cursor = cursor }
end
