-- Ready queues: one sorted set per (lane, set of required capabilities, fairness key), so that a worker never
-- walks past work that it cannot do. Beside them, per lane: `caps:<lane>`, the capability sets in use; per lane and
-- capability set: `ring:<lane>|<caps>`, the fairness keys with work, scored by turns taken.
--
-- Sharing between fairness keys is stride scheduling with equal tickets (Waldspurger and Weihl, 1995): the key
-- with the fewest turns goes next; a newcomer starts at the present minimum, so it neither starves nor owns the lane.

-- Priority first (higher is sooner), then the time it became ready: 8 + 42 bits fit a double exactly.
local TIME_SPAN = 2 ^ 42
local named       -- queues that this call came across: name -> an execution of it
local filled      -- those of them that got work

function Queues.begin() named, filled = {}, {} end

function Queues.score(x) return (127 - (x.priority or 0)) * TIME_SPAN + x.ready_at end

local function queue_key(lane, caps, fair) return Call.root .. ':q:' .. lane .. '|' .. caps .. '|' .. fair end
local function ring_key(lane, caps) return Call.root .. ':ring:' .. lane .. '|' .. caps end
local function caps_key(lane) return Call.root .. ':caps:' .. lane end

-- The queue of a ready execution.
function Queues.key(x)
  local name = queue_key(x.lane, x.caps or '', x.fairness_key or '')
  named[name] = x
  return name
end

-- Records tells of a set that an id joined. The first id of a call makes a queue known to its lane.
function Queues.joined(name)
  local x = named[name]
  if not x or filled[name] then return end
  filled[name] = true
  local caps, fair = x.caps or '', x.fairness_key or ''
  local ring = ring_key(x.lane, caps)
  if not redis.call('ZSCORE', ring, fair) then
    local first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    redis.call('ZADD', ring, first[2] or 0, fair)
    redis.call('SADD', caps_key(x.lane), caps)
  end
  Call.hint('ready', x.lane, 1)
end

-- Whether a worker with this set of capabilities may do what asks for `caps` (a comma-joined list).
local function serves(has, caps)
  for name in string.gmatch(caps, '[^,]+') do
    if not has[name] then return false end
  end
  return true
end

-- The next id of a queue, read a few at a time.
local function head(queue)
  if queue.next > #queue.found then
    if #queue.found < queue.chunk * 2 then return nil end
    queue.found = redis.call('ZRANGE', queue.name, queue.read, queue.read + queue.chunk - 1, 'WITHSCORES')
    queue.read = queue.read + queue.chunk
    queue.next = 1
  end
  return queue.found[queue.next]
end

-- Appends the next `max` ids of one ring to `picks`, shared between its fairness keys by turns. A queue that
-- turns out to be empty leaves the ring, an empty ring the lane.
local function take_ring(lane, caps, max, picks)
  local ring = ring_key(lane, caps)
  local keys = redis.call('ZRANGE', ring, 0, max - 1, 'WITHSCORES')
  local queues = {}
  for i = 1, #keys, 2 do
    local chunk = #keys == 2 and max or 4
    local name = queue_key(lane, caps, keys[i])
    local found = redis.call('ZRANGE', name, 0, chunk - 1, 'WITHSCORES')
    if #found == 0 then
      redis.call('ZREM', ring, keys[i])
    else
      queues[#queues + 1] = {
        name = name, fair = keys[i], turns = tonumber(keys[i + 1]), ring = ring, shared = #keys > 2,
        found = found, chunk = chunk, read = chunk, next = 1,
      }
    end
  end
  if #keys > 0 and #queues == 0 and redis.call('EXISTS', ring) == 0 then redis.call('SREM', caps_key(lane), caps) end
  while max > 0 and #queues > 0 do
    local best = 1
    for i = 2, #queues do
      if queues[i].turns < queues[best].turns then best = i end
    end
    local queue = queues[best]
    local id = head(queue)
    if id then
      picks[#picks + 1] = { id = id, score = tonumber(queue.found[queue.next + 1]), queue = queue }
      queue.next = queue.next + 2
      queue.turns = queue.turns + 1
      max = max - 1
    else
      table.remove(queues, best)
    end
  end
end

-- Up to `max` ids of ready executions of one lane for a worker with these capabilities, best first; they stay
-- in their queues until their records move on. has: {capability = true}.
function Queues.take(lane, has, max)
  Call.settle()
  local picks, sets = {}, 0
  for _, caps in ipairs(redis.call('SMEMBERS', caps_key(lane))) do
    if serves(has, caps) then
      take_ring(lane, caps, max, picks)
      sets = sets + 1
    end
  end
  -- Of several capability sets the best heads, by priority and time.
  if sets > 1 then
    table.sort(picks, function(a, b)
      if a.score ~= b.score then return a.score < b.score end
      return a.id < b.id
    end)
  end
  local ids = {}
  for i = 1, math.min(max, #picks) do
    local queue = picks[i].queue
    ids[i] = picks[i].id
    -- Turns matter only where there is somebody to share with.
    if queue.shared then redis.call('ZINCRBY', queue.ring, 1, queue.fair) end
  end
  return ids
end
