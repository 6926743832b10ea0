-- Ready queues: one sorted set per (lane, set of required capabilities, kind, fairness key, limit), so that a worker
-- never walks past work that it cannot do or that may not run now. queue/turns.lua chooses among the queues. Indexes
-- that lead to them, beside those of queue/rings.lua:
--   ring:<lane>|<caps>|<kind>           fairness keys with work in these queues, by turns taken; may lag behind `turns`
--   lines:<lane>|<caps>|<kind>|<fair>   limits with work of one fairness key, by turns taken; not work without a limit
--   turns:<lane>                        all fairness keys with work in the lane, by turns taken
--   rings:<lane>|<fair>                 the rings that contain a fairness key, as `<caps>|<kind>`
--
-- Needs: Blocks, Call, Kept, Keys, Notes, Places, Rings, Undo, Zsets.

-- A score sorts by priority (higher is sooner), then by ready_at: 8 + 42 bits fit a double exactly.
local TIME_SPAN = 2 ^ 42
local named       -- queues, kept between calls: name -> {lane, caps, kind, fair, limit}
local plain_keys  -- the same: lane -> kind -> its queue without capabilities, fairness key and limit
local filled = Notes.new()   -- queues that got work in this call and are already in the indexes: name -> the lowest score

Kept.on_root(function() named, plain_keys = Kept.table('queues'), Kept.table('plain_queues') end)

function Queues.score(x) return (127 - (x.priority or 0)) * TIME_SPAN + x.ready_at end

-- Return the kind under which an execution queues: with the version to which it is pinned, if it is.
function Queues.kind(x) return x.pinned or x.kind end

-- Return the lowest number of turns in a sorted set (turns, ring, lines), or nil when it is empty.
local function fewest(zset) return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2] or nil) end

-- Put a queue whose first work has this score into the indexes that lead to it, and hint that its lane has work.
local function open(score, lane, caps, kind, fair, limit)
  local new, ring = Rings.lower(lane, caps, kind, score), Keys.ring(lane, caps, kind)
  if new or not redis.call('ZSCORE', ring, fair) then
    local all = Keys.turns(lane)
    local turns = redis.call('ZSCORE', all, fair)
    if not turns then
      turns = fewest(all) or 0
      redis.call('ZADD', all, turns, fair)
    end
    redis.call('ZADD', ring, turns, fair)
    redis.call('SADD', Keys.rings(lane, fair), caps .. '|' .. kind)
  end
  if limit then
    local lines = Keys.lines(lane, caps, kind, fair)
    if not redis.call('ZSCORE', lines, limit) then redis.call('ZADD', lines, fewest(lines) or 0, limit) end
  end
  Call.hint('ready', lane .. '|' .. kind, 1)
end

-- An id joined a queue with a score. If it is the first one of this call, or the call's first by score, put the queue
-- into the indexes, or into the block of its limit.
local function joined(name, score)
  local before = filled.of[name]
  if before and before <= score then return end
  Undo.put(filled, name, score)
  local lane, caps, kind, fair, limit = unpack(named[name])
  local block = limit and Blocks.read(limit)
  if block then
    Blocks.add(limit, nil, name, { lane, caps, kind, fair })
  else
    open(score, lane, caps, kind, fair, limit)
  end
end

-- Return the key of a ready execution's queue.
function Queues.key(x)
  local plain, kind = not (x.caps or x.fairness_key or x.limit), Queues.kind(x)
  local name = plain and table_at(plain_keys, x.lane)[kind]
  if not name then
    local caps, fair = x.caps or '', x.fairness_key or ''
    name = Keys.queue(x.lane, caps, kind, fair, x.limit)
    if not named[name] then
      Places.watch(name, joined)
      Kept.put(named, name, { x.lane, caps, kind, fair, x.limit })
    end
    if plain then Kept.put(plain_keys[x.lane], kind, name) end
  end
  return name
end

-- Remove a fairness key without work from a ring. Clearing `filled` lets work of this call put the key back.
function Queues.leave_ring(ring, fair)
  local lane = ring.lane
  Notes.table(filled)[Keys.queue(lane, ring.caps, ring.kind, fair)] = nil
  if redis.call('ZREM', ring.key, fair) == 0 then return end
  redis.call('SREM', Keys.rings(lane, fair), ring.place)
  if redis.call('EXISTS', Keys.rings(lane, fair)) == 0 then redis.call('ZREM', Keys.turns(lane), fair) end
end

-- Remove a limit from the lines of its fairness key: its queue is empty or set aside.
function Queues.leave_lines(lane, caps, kind, fair, limit)
  redis.call('ZREM', Keys.lines(lane, caps, kind, fair), limit)
  Notes.table(filled)[Keys.queue(lane, caps, kind, fair, limit)] = nil
end

-- A block has ended: put its queue back into the indexes if it has work. place: {lane, caps, kind, fair}.
Blocks.on_open(function(name, place, limit)
  local score = Zsets.lowest(name)
  if score then
    open(score, place[1], place[2], place[3], place[4], limit)
  else
    -- The queue is empty. Work that joins it later in this call must put it back into the indexes.
    Notes.table(filled)[name] = nil
  end
end)

-- The limit of x has no room: set its queue aside. full: what Limits.take returned.
function Queues.block(x, full)
  local caps, fair = x.caps or '', x.fairness_key or ''
  Queues.leave_lines(x.lane, caps, Queues.kind(x), fair, x.limit)
  Blocks.add(x.limit, full, Queues.key(x), { x.lane, caps, Queues.kind(x), fair })
end
