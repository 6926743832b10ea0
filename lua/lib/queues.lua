-- Ready queues: one sorted set per (lane, set of required capabilities, fairness key, limit), so that a worker
-- never walks past work that it cannot do, or that may not run now. Who is next: queue_turns.lua. What leads to them:
--   ring:<lane>|<caps>            the fairness keys with work there, by turns taken: as many as in `turns`, or fewer
--   lines:<lane>|<caps>|<fair>    of a fairness key the limits with work, by turns taken; only where there are limits
--   turns:<lane>                  all fairness keys of the lane with work, by turns taken
--   rings:<lane>                  {fairness key = how many rings it stands in}
--   caps:<lane>|<name>, caps:<lane>, sets:<lane>   the capability sets in use, each in the group of one of its names; the groups
--       that are; {set = its group}. A set joins its rarest name's group: a worker that has `gpu` and `model-7` then does not look
--       through all the sets that ask for a gpu. Work that asks for nothing is in no group.

-- Priority first (higher is sooner), then the time it became ready: 8 + 42 bits fit a double exactly.
local TIME_SPAN = 2 ^ 42
-- What one call takes away of what led to the queues of a lane without work: more than that stays until somebody asks.
local FORGOTTEN = 50
local named       -- queues that this call came across: name -> an execution of it
local filled      -- those of them that got work
local plain_keys  -- lane -> its queue without anything special

function Queues.begin() named, filled, plain_keys = {}, {}, {} end

function Queues.score(x) return (127 - (x.priority or 0)) * TIME_SPAN + x.ready_at end

function Queues.name(lane, caps, fair, limit)
  local name = Call.root .. ':q:' .. lane .. '|' .. caps .. '|' .. fair
  if limit then return name .. '|' .. limit end
  return name
end
function Queues.ring_key(lane, caps) return Call.root .. ':ring:' .. lane .. '|' .. caps end
function Queues.lines_key(lane, caps, fair) return Call.root .. ':lines:' .. lane .. '|' .. caps .. '|' .. fair end
function Queues.turns_key(lane) return Call.root .. ':turns:' .. lane end
function Queues.rings_key(lane) return Call.root .. ':rings:' .. lane end
function Queues.groups_key(lane) return Call.root .. ':caps:' .. lane end
function Queues.group_key(lane, name) return Call.root .. ':caps:' .. lane .. '|' .. name end
local function sets_key(lane) return Call.root .. ':sets:' .. lane end

local function forget_ring(lane, caps)
  local ring = Queues.ring_key(lane, caps)
  for _, fair in ipairs(redis.call('ZRANGE', ring, 0, FORGOTTEN - 1)) do
    redis.call('UNLINK', Queues.lines_key(lane, caps, fair))
  end
  redis.call('UNLINK', ring)
end

-- The lane has no work any more.
function Queues.forget(lane)
  forget_ring(lane, '')
  for _, name in ipairs(redis.call('SRANDMEMBER', Queues.groups_key(lane), FORGOTTEN)) do
    local group = Queues.group_key(lane, name)
    for _, caps in ipairs(redis.call('SPOP', group, FORGOTTEN)) do forget_ring(lane, caps) end
    if redis.call('EXISTS', group) == 0 then redis.call('SREM', Queues.groups_key(lane), name) end
  end
  redis.call('UNLINK', sets_key(lane), Queues.turns_key(lane), Queues.rings_key(lane))
end

-- The queue of a ready execution.
function Queues.key(x)
  local plain = not (x.caps or x.fairness_key or x.limit)
  local name = plain and plain_keys[x.lane]
  if not name then
    name = Queues.name(x.lane, x.caps or '', x.fairness_key or '', x.limit)
    named[name] = x
    if plain then plain_keys[x.lane] = name end
  end
  return name
end

-- The present minimum of turns in a sorted set of those who share, or nil.
local function fewest(zset) return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2] or nil) end

-- A set of capabilities is in use: it joins the smallest of the groups of its names.
local function add_set(lane, caps)
  if caps == '' or redis.call('HEXISTS', sets_key(lane), caps) == 1 then return end
  local rarest, size
  for name in string.gmatch(caps, '[^,]+') do
    local n = redis.call('SCARD', Queues.group_key(lane, name))
    if not size or n < size then rarest, size = name, n end
  end
  redis.call('HSET', sets_key(lane), caps, rarest)
  redis.call('SADD', Queues.group_key(lane, rarest), caps)
  redis.call('SADD', Queues.groups_key(lane), rarest)
end

-- Nobody asks for this set of capabilities any more.
function Queues.drop_set(lane, caps)
  local name = caps ~= '' and redis.call('HGET', sets_key(lane), caps)
  if not name then return end
  redis.call('HDEL', sets_key(lane), caps)
  redis.call('SREM', Queues.group_key(lane, name), caps)
  if redis.call('EXISTS', Queues.group_key(lane, name)) == 0 then redis.call('SREM', Queues.groups_key(lane), name) end
end

local function open(lane, caps, fair, limit)
  local ring = Queues.ring_key(lane, caps)
  if not redis.call('ZSCORE', ring, fair) then
    local all = Queues.turns_key(lane)
    local turns = redis.call('ZSCORE', all, fair)
    if not turns then
      turns = fewest(all) or 0
      redis.call('ZADD', all, turns, fair)
    end
    redis.call('ZADD', ring, turns, fair)
    redis.call('HINCRBY', Queues.rings_key(lane), fair, 1)
    add_set(lane, caps)
  end
  local lines = Queues.lines_key(lane, caps, fair)
  if limit and not redis.call('ZSCORE', lines, limit) then redis.call('ZADD', lines, fewest(lines) or 0, limit) end
  Call.hint('ready', lane, 1)
end

-- A fairness key has nothing left in a ring; what joins it later in this call must make it known again.
function Queues.leave_ring(lane, caps, fair)
  filled[Queues.name(lane, caps, fair)] = nil
  if redis.call('ZREM', Queues.ring_key(lane, caps), fair) == 0 then return end
  if redis.call('HINCRBY', Queues.rings_key(lane), fair, -1) <= 0 then
    redis.call('HDEL', Queues.rings_key(lane), fair)
    redis.call('ZREM', Queues.turns_key(lane), fair)
  end
end

-- A limit's queue leaves the lines of its fairness key: it has run dry, or stands aside.
function Queues.leave_lines(lane, caps, fair, limit)
  redis.call('ZREM', Queues.lines_key(lane, caps, fair), limit)
  filled[Queues.name(lane, caps, fair, limit)] = nil
end

-- Records tells of a set that an id joined. The first id of a call makes a queue known to its lane.
function Queues.joined(name)
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

-- A block is over. place: {lane, caps, fair}.
function Queues.reopen(name, place, limit)
  if Zsets.exists(name) then
    open(place[1], place[2], place[3], limit)
  else
    -- What joins it later in this call must make it known again.
    filled[name] = nil
  end
end

-- A limit has no room: its queue stands aside. full: as of Limits.take.
function Queues.block(x, full)
  local caps, fair = x.caps or '', x.fairness_key or ''
  Queues.leave_lines(x.lane, caps, fair, x.limit)
  Blocks.add(x.limit, full, Queues.key(x), { x.lane, caps, fair })
end
