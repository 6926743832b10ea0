-- Ready queues: one sorted set per (lane, set of required capabilities, fairness key, limit), so that a worker
-- never walks past work that it cannot do, or that may not run now. Beside them, per lane: `caps:<lane>`, the
-- capability sets in use; per lane and capability set: `ring:<lane>|<caps>`, the fairness keys with work, scored by turns
-- taken; per fairness key, only where there are limits: `lines:<lane>|<caps>|<fair>`, the limits with work.
--
-- Sharing between fairness keys is stride scheduling with equal tickets (Waldspurger and Weihl, 1995): the key
-- with the fewest turns goes next; a newcomer starts at the present minimum, so it neither starves nor owns the lane.

-- Priority first (higher is sooner), then the time it became ready: 8 + 42 bits fit a double exactly.
local TIME_SPAN = 2 ^ 42
local named       -- queues that this call came across: name -> an execution of it
local filled      -- those of them that got work

function Queues.begin() named, filled = {}, {} end

function Queues.score(x) return (127 - (x.priority or 0)) * TIME_SPAN + x.ready_at end

local function queue_key(lane, caps, fair, limit)
  local name = Call.root .. ':q:' .. lane .. '|' .. caps .. '|' .. fair
  if limit then return name .. '|' .. limit end
  return name
end
local function ring_key(lane, caps) return Call.root .. ':ring:' .. lane .. '|' .. caps end
local function lines_key(lane, caps, fair) return Call.root .. ':lines:' .. lane .. '|' .. caps .. '|' .. fair end
local function caps_key(lane) return Call.root .. ':caps:' .. lane end

-- The queue of a ready execution.
function Queues.key(x)
  local name = queue_key(x.lane, x.caps or '', x.fairness_key or '', x.limit)
  named[name] = x
  return name
end

-- A newcomer starts at the present minimum of turns.
local function join(zset, member)
  if redis.call('ZSCORE', zset, member) then return end
  local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  redis.call('ZADD', zset, first[2] or 0, member)
end

local function open(lane, caps, fair, limit)
  join(ring_key(lane, caps), fair)
  if limit then join(lines_key(lane, caps, fair), limit) end
  redis.call('SADD', caps_key(lane), caps)
  Call.hint('ready', lane, 1)
end

-- Records tells of a set that an id joined. The first id of a call makes a queue known to its lane.
function Queues.joined(name)
  local x = named[name]
  if not x or filled[name] then return end
  filled[name] = true
  local caps, fair = x.caps or '', x.fairness_key or ''
  local block = x.limit and Blocks.read(x.limit)
  if block then
    Blocks.add(x.limit, block.code, block.until_at, name, { x.lane, caps, fair })
  else
    open(x.lane, caps, fair, x.limit)
  end
end

-- A block is over. place: {lane, caps, fair}.
function Queues.reopen(name, place, limit)
  if redis.call('EXISTS', name) == 1 then open(place[1], place[2], place[3], limit) end
end

-- A limit has no room: its queue stands aside.
function Queues.block(x, code, until_at)
  local caps, fair = x.caps or '', x.fairness_key or ''
  redis.call('ZREM', lines_key(x.lane, caps, fair), x.limit)
  Blocks.add(x.limit, code, until_at, Queues.key(x), { x.lane, caps, fair })
end

-- Whether a worker with this set of capabilities may do what asks for `caps` (a comma-joined list).
local function serves(has, caps)
  for name in string.gmatch(caps, '[^,]+') do
    if not has[name] then return false end
  end
  return true
end

-- A line is a queue that is read a few ids at a time.
local function new_line(name, chunk)
  return { name = name, chunk = chunk, read = 0, next = 1, found = {} }
end

-- The id at the head of a line and its score, or nil.
local function head(line)
  if line.next > #line.found then
    if line.read > 0 and #line.found < line.chunk * 2 then return nil end
    line.found = redis.call('ZRANGE', line.name, line.read, line.read + line.chunk - 1, 'WITHSCORES')
    line.read = line.read + line.chunk
    line.next = 1
  end
  return line.found[line.next], tonumber(line.found[line.next + 1])
end

-- The lines of one fairness key: the queue without limits, and those of limits that are not blocked.
local function lines_of(lane, caps, fair, chunk, max)
  local lines = { new_line(queue_key(lane, caps, fair), chunk) }
  local key = lines_key(lane, caps, fair)
  for _, limit in ipairs(redis.call('ZRANGE', key, 0, max - 1)) do
    local line = new_line(queue_key(lane, caps, fair, limit), 4)
    if Blocks.read(limit) then
      redis.call('ZREM', key, limit)
      local block = Records.read('block', limit)
      Blocks.add(limit, block.code, block.until_at, line.name, { lane, caps, fair })
    elseif head(line) then
      line.limit = limit
      lines[#lines + 1] = line
    else
      redis.call('ZREM', key, limit)
    end
  end
  return lines
end

-- The line whose head is first by priority and time.
local function best_line(lines)
  local best, best_score
  for _, line in ipairs(lines) do
    local id, score = head(line)
    if id and (not best or score < best_score) then best, best_score = line, score end
  end
  return best, best_score
end

-- Appends the next `max` ids of one ring to `picks`, shared between its fairness keys by turns. A key that
-- turns out to have nothing leaves the ring, an empty ring the lane.
local function take_ring(lane, caps, max, picks)
  local ring = ring_key(lane, caps)
  local keys = redis.call('ZRANGE', ring, 0, max - 1, 'WITHSCORES')
  local tenants = {}
  for i = 1, #keys, 2 do
    local fair = keys[i]
    local lines = lines_of(lane, caps, fair, #keys == 2 and max or 4, max)
    if best_line(lines) then
      tenants[#tenants + 1] = { fair = fair, turns = tonumber(keys[i + 1]), ring = ring, shared = #keys > 2, lines = lines }
    else
      redis.call('ZREM', ring, fair)
    end
  end
  if #keys > 0 and #tenants == 0 and redis.call('EXISTS', ring) == 0 then redis.call('SREM', caps_key(lane), caps) end
  while max > 0 and #tenants > 0 do
    local first = 1
    for i = 2, #tenants do
      if tenants[i].turns < tenants[first].turns then first = i end
    end
    local tenant = tenants[first]
    local line, score = best_line(tenant.lines)
    if line then
      picks[#picks + 1] = { id = line.found[line.next], score = score, tenant = tenant, line = line, caps = caps }
      line.next = line.next + 2
      tenant.turns = tenant.turns + 1
      max = max - 1
    else
      table.remove(tenants, first)
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
    local pick = picks[i]
    ids[i] = pick.id
    -- Turns matter only where there is somebody to share with.
    if pick.tenant.shared then redis.call('ZINCRBY', pick.tenant.ring, 1, pick.tenant.fair) end
    if pick.line.limit then redis.call('ZINCRBY', lines_key(lane, pick.caps, pick.tenant.fair), 1, pick.line.limit) end
  end
  return ids
end
