-- Ready queues: one sorted set per (lane, set of required capabilities, fairness key, limit), so that a worker
-- never walks past work that it cannot do, or that may not run now. Who is next: queue/turns.lua. What leads to them:
--   ring:<lane>|<caps>            the fairness keys with work there, by turns taken: as many as in `turns`, or fewer
--   lines:<lane>|<caps>|<fair>    of a fairness key the limits with work, by turns taken; only where there are limits
--   turns:<lane>                  all fairness keys of the lane with work, by turns taken
--   rings:<lane>                  {fairness key = how many rings it stands in}
--   caps:<lane>|<name>, caps:<lane>, sets:<lane>   the capability sets in use, each in the group of one of its names; the groups
--       that are; {set = its group}. A set joins its rarest name's group: a worker that has `gpu` and `model-7` then does not look
--       through all the sets that ask for a gpu. Work that asks for nothing is in no group.
--
-- Needs: Blocks, Call, Keys, Records, Undo, Zsets.

-- Priority first (higher is sooner), then the time it became ready: 8 + 42 bits fit a double exactly.
local TIME_SPAN = 2 ^ 42
-- What one call takes away of what led to the queues of a lane without work: more than that stays until somebody asks.
local FORGOTTEN = 50
local named       -- queues that this call came across: name -> an execution of it
local filled      -- those of them that got work
local plain_keys  -- lane -> its queue without anything special

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

-- The lane has no work any more.
function Queues.forget(lane)
  forget_ring(lane, '')
  for _, name in ipairs(redis.call('SRANDMEMBER', Keys.capability_groups(lane), FORGOTTEN)) do
    local sets = redis.call('SPOP', Keys.capability_group(lane, name), FORGOTTEN)
    for _, caps in ipairs(sets) do forget_ring(lane, caps) end
    drop_empty_group(lane, name)
  end
  redis.call('UNLINK', Keys.capability_sets(lane), Keys.turns(lane), Keys.rings(lane))
end

-- The present minimum of turns in a sorted set of those who share, or nil.
local function fewest(zset) return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2] or nil) end

-- A set of capabilities is in use: it joins the smallest of the groups of its names.
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

-- Nobody asks for this set of capabilities any more.
function Queues.drop_set(lane, caps)
  local name = caps ~= '' and redis.call('HGET', Keys.capability_sets(lane), caps)
  if not name then return end
  redis.call('HDEL', Keys.capability_sets(lane), caps)
  redis.call('SREM', Keys.capability_group(lane, name), caps)
  drop_empty_group(lane, name)
end

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

-- The first id of a call that joins a queue makes it known to its lane.
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

-- The queue of a ready execution.
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

-- A fairness key has nothing left in a ring; what joins it later in this call must make it known again.
function Queues.leave_ring(lane, caps, fair)
  filled[Keys.queue(lane, caps, fair)] = nil
  if redis.call('ZREM', Keys.ring(lane, caps), fair) == 0 then return end
  if redis.call('HINCRBY', Keys.rings(lane), fair, -1) <= 0 then
    redis.call('HDEL', Keys.rings(lane), fair)
    redis.call('ZREM', Keys.turns(lane), fair)
  end
end

-- A limit's queue leaves the lines of its fairness key: it has run dry, or stands aside.
function Queues.leave_lines(lane, caps, fair, limit)
  redis.call('ZREM', Keys.lines(lane, caps, fair), limit)
  filled[Keys.queue(lane, caps, fair, limit)] = nil
end

-- A block is over. place: {lane, caps, fair}.
Blocks.on_open(function(name, place, limit)
  if Zsets.exists(name) then
    open(place[1], place[2], place[3], limit)
  else
    -- What joins it later in this call must make it known again.
    filled[name] = nil
  end
end)

-- A limit has no room: its queue stands aside. full: as of Limits.take.
function Queues.block(x, full)
  local caps, fair = x.caps or '', x.fairness_key or ''
  Queues.leave_lines(x.lane, caps, fair, x.limit)
  Blocks.add(x.limit, full, Queues.key(x), { x.lane, caps, fair })
end
