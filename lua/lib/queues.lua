-- Ready queues: one sorted set per (lane, set of required capabilities, fairness key, limit), so that a worker
-- never walks past work that it cannot do, or that may not run now. Beside them, per lane: `caps:<lane>`, the
-- capability sets in use; per lane and capability set: `ring:<lane>|<caps>`, the fairness keys with work, scored by turns
-- taken; per fairness key, only where there are limits: `lines:<lane>|<caps>|<fair>`, the limits with work.
--
-- Sharing between fairness keys is stride scheduling with equal tickets (Waldspurger and Weihl, 1995): the key
-- with the fewest turns goes next; a newcomer starts at the present minimum, so it neither starves nor owns the lane.
-- Turns count in the whole lane: a key that asks for several sets of capabilities does not get several shares.

-- Priority first (higher is sooner), then the time it became ready: 8 + 42 bits fit a double exactly.
local TIME_SPAN = 2 ^ 42
local named       -- queues that this call came across: name -> an execution of it
local filled      -- those of them that got work
local plain_keys  -- lane -> its queue without anything special

function Queues.begin() named, filled, plain_keys = {}, {}, {} end

function Queues.score(x) return (127 - (x.priority or 0)) * TIME_SPAN + x.ready_at end

local function queue_key(lane, caps, fair, limit)
  local name = Call.root .. ':q:' .. lane .. '|' .. caps .. '|' .. fair
  if limit then return name .. '|' .. limit end
  return name
end
local function ring_key(lane, caps) return Call.root .. ':ring:' .. lane .. '|' .. caps end
local function lines_key(lane, caps, fair) return Call.root .. ':lines:' .. lane .. '|' .. caps .. '|' .. fair end
local function caps_key(lane) return Call.root .. ':caps:' .. lane end

-- What one call takes away of what led to the queues of a lane without work: more than that stays until somebody asks.
local FORGOTTEN = 50

-- The lane has no work any more.
function Queues.forget(lane)
  for _, caps in ipairs(redis.call('SPOP', caps_key(lane), FORGOTTEN)) do
    for _, fair in ipairs(redis.call('ZRANGE', ring_key(lane, caps), 0, FORGOTTEN - 1)) do
      redis.call('UNLINK', lines_key(lane, caps, fair))
    end
    redis.call('UNLINK', ring_key(lane, caps))
  end
end

-- The queue of a ready execution.
function Queues.key(x)
  local plain = not (x.caps or x.fairness_key or x.limit)
  local name = plain and plain_keys[x.lane]
  if not name then
    name = queue_key(x.lane, x.caps or '', x.fairness_key or '', x.limit)
    named[name] = x
    if plain then plain_keys[x.lane] = name end
  end
  return name
end

-- The present minimum of turns in a ring or in the lines of a key, or nil.
local function fewest(zset) return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2] or nil) end

local function open(lane, caps, fair, limit)
  local ring = ring_key(lane, caps)
  if not redis.call('ZSCORE', ring, fair) then
    local turns
    for _, other in ipairs(redis.call('SMEMBERS', caps_key(lane))) do
      local n = fewest(ring_key(lane, other))
      if n and (not turns or n < turns) then turns = n end
    end
    redis.call('ZADD', ring, turns or 0, fair)
  end
  local lines = lines_key(lane, caps, fair)
  if limit and not redis.call('ZSCORE', lines, limit) then redis.call('ZADD', lines, fewest(lines) or 0, limit) end
  redis.call('SADD', caps_key(lane), caps)
  Call.hint('ready', lane, 1)
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
  local name = Queues.key(x)
  redis.call('ZREM', lines_key(x.lane, caps, fair), x.limit)
  filled[name] = nil
  Blocks.add(x.limit, full, name, { x.lane, caps, fair })
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

-- The lines of one fairness key: the queue without limits, and those of limits that are not blocked. What is blocked or
-- has run dry leaves the list and does not count: the work of another limit may stand behind it.
local function lines_of(lane, caps, fair, chunk, max)
  local lines = { new_line(queue_key(lane, caps, fair), chunk) }
  local key = lines_key(lane, caps, fair)
  local kept, dropped = 0, nil
  repeat
    dropped = false
    for _, limit in ipairs(redis.call('ZRANGE', key, kept, max - 1)) do
      local line = new_line(queue_key(lane, caps, fair, limit), 4)
      local block = Blocks.read(limit)
      if not block and head(line) then
        line.limit = limit
        lines[#lines + 1] = line
        kept = kept + 1
      else
        redis.call('ZREM', key, limit)
        dropped = true
        if block then
          Blocks.add(limit, nil, line.name, { lane, caps, fair })
        else
          -- What joins it later in this call must make it known again.
          filled[line.name] = nil
        end
      end
    end
  until not dropped or kept == max
  return lines
end

-- The line whose head is first by priority, time and id.
local function best_line(lines)
  local best, best_score, best_id
  for _, line in ipairs(lines) do
    local id, score = head(line)
    if id and (not best or score < best_score or (score == best_score and id < best_id)) then
      best, best_score, best_id = line, score, id
    end
  end
  return best, best_score
end

local function add_lines(tenants, fair, turns, caps, lines)
  local tenant = tenants[fair]
  if not tenant then
    tenant = { fair = fair, turns = turns, lines = {}, sets = {} }
    tenants[fair] = tenant
    tenants[#tenants + 1] = tenant
  end
  tenant.turns = math.max(tenant.turns, turns)
  tenant.sets[caps] = true
  for _, line in ipairs(lines) do
    line.caps = caps
    tenant.lines[#tenant.lines + 1] = line
  end
end

-- Adds to `tenants` {fairness key = {turns, lines}} those of one ring that have the fewest turns. A key that turns out
-- to have nothing leaves the ring, an empty ring the lane.
local function gather(lane, caps, max, tenants)
  local ring = ring_key(lane, caps)
  local lines = {}
  local keys, dropped
  repeat
    dropped = false
    -- One more than can be served tells whether there is somebody to share with.
    keys = redis.call('ZRANGE', ring, 0, max, 'WITHSCORES')
    for i = 1, #keys, 2 do
      local fair = keys[i]
      lines[fair] = lines[fair] or lines_of(lane, caps, fair, #keys == 2 and max or 4, max)
      if not best_line(lines[fair]) then
        redis.call('ZREM', ring, fair)
        filled[queue_key(lane, caps, fair)] = nil
        lines[fair] = nil
        dropped = true
      end
    end
  until not dropped
  if #keys == 0 then redis.call('SREM', caps_key(lane), caps) end
  for i = 1, #keys, 2 do
    add_lines(tenants, keys[i], tonumber(keys[i + 1]), caps, lines[keys[i]])
  end
end

-- What a tenant has in the other rings, where it was too far behind to be met.
local function complete(lane, sets, max, tenants, tenant)
  tenant.complete = true
  for _, caps in ipairs(sets) do
    if not tenant.sets[caps] then
      local turns = redis.call('ZSCORE', ring_key(lane, caps), tenant.fair)
      if turns then add_lines(tenants, tenant.fair, tonumber(turns), caps, lines_of(lane, caps, tenant.fair, 4, max)) end
    end
  end
end

-- The tenant whose turn it is (of equal ones, whose best id is first) and its best line; nil when all are through.
local function next_turn(tenants)
  local first, first_line, first_score
  for _, tenant in ipairs(tenants) do
    if not first or tenant.turns <= first.turns then
      local line, score = best_line(tenant.lines)
      if line and (not first or tenant.turns < first.turns or score < first_score) then
        first, first_line, first_score = tenant, line, score
      end
    end
  end
  return first, first_line
end

-- What holds back work of this lane that a worker with these capabilities could do, until it may go on: a block or nil.
function Queues.aside(lane, has)
  Call.settle()
  return Blocks.aside(lane, function(caps) return serves(has, caps) end)
end

-- Up to `max` ids of ready executions of one lane for a worker with these capabilities, best first; they stay
-- in their queues until their records move on. has: {capability = true}.
function Queues.take(lane, has, max)
  Call.settle()
  local tenants, served = {}, {}
  local sets = redis.call('SMEMBERS', caps_key(lane))
  for _, caps in ipairs(sets) do
    if serves(has, caps) then
      served[#served + 1] = caps
      gather(lane, caps, max, tenants)
    end
  end
  local ids = {}
  while #ids < max do
    local tenant, line = next_turn(tenants)
    if not tenant then break end
    if #served > 1 and not tenant.complete then
      complete(lane, served, max, tenants, tenant)
    else
      ids[#ids + 1] = head(line)
      line.next = line.next + 2
      tenant.turns = tenant.turns + 1
      tenant.served = true
      if line.limit then redis.call('ZINCRBY', lines_key(lane, line.caps, tenant.fair), 1, line.limit) end
    end
  end
  -- Turns matter only where there is somebody to share with.
  if #tenants > 1 then
    for _, tenant in ipairs(tenants) do
      if tenant.served then
        for _, caps in ipairs(sets) do redis.call('ZADD', ring_key(lane, caps), 'XX', tenant.turns, tenant.fair) end
      end
    end
  end
  -- What this call put into the lane it has also taken out: nobody else has to look.
  if #ids < max and #served == #sets then Call.unhint('ready', lane) end
  return ids
end
