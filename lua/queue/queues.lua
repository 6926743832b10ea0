-- Ready queues: one sorted set per (lane, set of required capabilities, fairness key, limit), so that a worker never
-- walks past work that it cannot do or that may not run now. queue/turns.lua chooses among the queues. Indexes that
-- lead to them:
--   ring:<lane>|<caps>            fairness keys with work in these queues, by turns taken; may lag behind `turns`
--   lines:<lane>|<caps>|<fair>    limits with work of one fairness key, by turns taken; not work without a limit
--   turns:<lane>                  all fairness keys with work in the lane, by turns taken
--   rings:<lane>                  hash {fairness key = number of rings that contain it}
--   caps:<lane>|<name>            a group: capability sets in use that contain <name>; each set is in one group only
--   caps:<lane>, sets:<lane>      the names of the groups; hash {capability set = the name of its group}
-- A set joins the smallest group among its names, so that a worker with `gpu` and `model-7` need not look through all
-- sets with `gpu`. Work without required capabilities is in no group.
--
-- Needs: Blocks, Call, Keys, Records, Undo, Zsets.

-- A score sorts by priority (higher is sooner), then by ready_at: 8 + 42 bits fit a double exactly.
local TIME_SPAN = 2 ^ 42
-- How many entries of each index Queues.forget removes in one call. The rest stays until a worker asks for work.
local FORGOTTEN = 50
local named       -- queues that this call has used: name -> one of its executions
local filled      -- queues that got work in this call and are already in the indexes: name -> true
local plain_keys  -- lane -> its queue without capabilities, fairness key and limit

Call.on_begin(function() named, filled, plain_keys = {}, {}, {} end)

function Queues.score(x) return (127 - (x.priority or 0)) * TIME_SPAN + x.ready_at end

local function forget_ring(lane, caps)
  local ring = Keys.ring(lane, caps)
  for _, fair in ipairs(redis.call('ZRANGE', ring, 0, FORGOTTEN - 1)) do
    redis.call('UNLINK', Keys.lines(lane, caps, fair))
  end
  redis.call('UNLINK', ring)
end

local function drop_empty_group(lane, name)
  if redis.call('EXISTS', Keys.capability_group(lane, name)) == 0 then
    redis.call('SREM', Keys.capability_groups(lane), name)
  end
end

-- A lane has no executions any more: remove the indexes that lead to its queues.
function Queues.forget(lane)
  forget_ring(lane, '')
  for _, name in ipairs(redis.call('SRANDMEMBER', Keys.capability_groups(lane), FORGOTTEN)) do
    local sets = redis.call('SPOP', Keys.capability_group(lane, name), FORGOTTEN)
    for _, caps in ipairs(sets) do forget_ring(lane, caps) end
    drop_empty_group(lane, name)
  end
  redis.call('UNLINK', Keys.capability_sets(lane), Keys.turns(lane), Keys.rings(lane))
end

-- Return the lowest number of turns in a sorted set (turns, ring, lines), or nil when it is empty.
local function fewest(zset) return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2] or nil) end

-- Put a capability set into the smallest of the groups of its names.
local function add_set(lane, caps)
  if caps == '' or redis.call('HEXISTS', Keys.capability_sets(lane), caps) == 1 then return end
  local rarest, size
  for name in string.gmatch(caps, '[^,]+') do
    local n = redis.call('SCARD', Keys.capability_group(lane, name))
    if not size or n < size then rarest, size = name, n end
  end
  redis.call('HSET', Keys.capability_sets(lane), caps, rarest)
  redis.call('SADD', Keys.capability_group(lane, rarest), caps)
  redis.call('SADD', Keys.capability_groups(lane), rarest)
end

-- Remove a capability set from its group: no work requires it any more.
function Queues.drop_set(lane, caps)
  local name = caps ~= '' and redis.call('HGET', Keys.capability_sets(lane), caps)
  if not name then return end
  redis.call('HDEL', Keys.capability_sets(lane), caps)
  redis.call('SREM', Keys.capability_group(lane, name), caps)
  drop_empty_group(lane, name)
end

-- Put a queue into the indexes that lead to it, and hint that its lane has work.
local function open(lane, caps, fair, limit)
  local ring = Keys.ring(lane, caps)
  if not redis.call('ZSCORE', ring, fair) then
    local all = Keys.turns(lane)
    local turns = redis.call('ZSCORE', all, fair)
    if not turns then
      turns = fewest(all) or 0
      redis.call('ZADD', all, turns, fair)
    end
    redis.call('ZADD', ring, turns, fair)
    redis.call('HINCRBY', Keys.rings(lane), fair, 1)
    add_set(lane, caps)
  end
  local lines = Keys.lines(lane, caps, fair)
  if limit and not redis.call('ZSCORE', lines, limit) then redis.call('ZADD', lines, fewest(lines) or 0, limit) end
  Call.hint('ready', lane, 1)
end

-- An id joined a queue. At the first one of a call, put the queue into the indexes, or into the block of its limit.
local function joined(name)
  local x = named[name]
  if not x or filled[name] then return end
  Undo.set(filled, name, true)
  local caps, fair = x.caps or '', x.fairness_key or ''
  local block = x.limit and Blocks.read(x.limit)
  if block then
    Blocks.add(x.limit, nil, name, { x.lane, caps, fair })
  else
    open(x.lane, caps, fair, x.limit)
  end
end

-- Return the key of a ready execution's queue.
function Queues.key(x)
  local plain = not (x.caps or x.fairness_key or x.limit)
  local name = plain and plain_keys[x.lane]
  if not name then
    name = Keys.queue(x.lane, x.caps or '', x.fairness_key or '', x.limit)
    if not named[name] then Records.watch(name, joined) end
    named[name] = x
    if plain then plain_keys[x.lane] = name end
  end
  return name
end

-- Remove a fairness key without work from a ring. Clearing `filled` lets work of this call put the key back.
function Queues.leave_ring(lane, caps, fair)
  filled[Keys.queue(lane, caps, fair)] = nil
  if redis.call('ZREM', Keys.ring(lane, caps), fair) == 0 then return end
  if redis.call('HINCRBY', Keys.rings(lane), fair, -1) <= 0 then
    redis.call('HDEL', Keys.rings(lane), fair)
    redis.call('ZREM', Keys.turns(lane), fair)
  end
end

-- Remove a limit from the lines of its fairness key: its queue is empty or set aside.
function Queues.leave_lines(lane, caps, fair, limit)
  redis.call('ZREM', Keys.lines(lane, caps, fair), limit)
  filled[Keys.queue(lane, caps, fair, limit)] = nil
end

-- A block has ended: put its queue back into the indexes if it has work. place: {lane, caps, fair}.
Blocks.on_open(function(name, place, limit)
  if Zsets.exists(name) then
    open(place[1], place[2], place[3], limit)
  else
    -- The queue is empty. Work that joins it later in this call must put it back into the indexes.
    filled[name] = nil
  end
end)

-- The limit of x has no room: set its queue aside. full: what Limits.take returned.
function Queues.block(x, full)
  local caps, fair = x.caps or '', x.fairness_key or ''
  Queues.leave_lines(x.lane, caps, fair, x.limit)
  Blocks.add(x.limit, full, Queues.key(x), { x.lane, caps, fair })
end
