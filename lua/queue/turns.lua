-- Who is next in a lane. Sharing between fairness keys is stride scheduling with equal tickets (Waldspurger and Weihl, 1995):
-- the key with the fewest turns goes next; a newcomer starts at the present minimum, so it neither starves nor owns the lane.
-- Turns count in the whole lane: a key that asks for several sets of capabilities does not get several shares. A ring may know
-- of fewer turns than the lane, since they are counted in those rings only that a call has looked at; who is met is corrected.
--
-- However wide a lane is, one call looks at so much of it. What it did not come to is left to the next one; past LOOKED_AT
-- sets of capabilities each call draws its own at random, so that none waits for ever.
--
-- Needs: Blocks, Call, Keys, Records.

-- Capability sets that a call looks at.
local LOOKED_AT = 48
-- Reads of rings and queues that a call may make, beside two for each execution that is asked for.
local LOOKS = 150
-- Fairness keys that are shown to who compares partitions, beside as many as there may be turns: another partition may know
-- that it is theirs.
local BESIDE = 8
-- Rounds in which a ring is put right before it is taken as it is, and in which sets of capabilities are drawn without success.
local ROUNDS = 4

local looks   -- reads that this call may still make

-- Whether a worker with this set of capabilities may do what asks for `caps` (a comma-joined list).
local function serves(has, caps)
  for name in string.gmatch(caps, '[^,]+') do
    if not has[name] then return false end
  end
  return true
end

-- The sets of capabilities in use that a worker can serve, whether it was seen that these are all there are, and whether
-- they are a draw from more.
local function served_sets(lane, has)
  local served, groups = { '' }, {}
  local total = redis.call('SCARD', Keys.capability_groups(lane))
  if total == 0 then return served, true, false end
  local names = {}
  for name in pairs(has) do names[#names + 1] = name end
  if #names == 0 then return served, false, false end
  for i, known in ipairs(redis.call('SMISMEMBER', Keys.capability_groups(lane), unpack(names))) do
    if known == 1 then groups[#groups + 1] = Keys.capability_group(lane, names[i]) end
  end
  local all, drawn = #groups == total, false
  local each = math.max(1, math.floor(LOOKED_AT / #groups))
  for _, group in ipairs(groups) do
    local sets
    if redis.call('SCARD', group) > each then
      sets, all, drawn = redis.call('SRANDMEMBER', group, each), false, true
    else
      sets = redis.call('SMEMBERS', group)
    end
    for _, caps in ipairs(sets) do
      if serves(has, caps) then served[#served + 1] = caps else all = false end
    end
  end
  return served, all, drawn
end

-- A line is a queue that is read a few ids at a time.
local function new_line(name, chunk)
  return { name = name, chunk = chunk, read = 0, next = 1, found = {} }
end

-- The id at the head of a line and its score, or nil.
local function head(line)
  if line.next > #line.found then
    if line.read > 0 and #line.found < line.chunk * 2 then return nil end
    looks = looks - 1
    line.found = redis.call('ZRANGE', line.name, line.read, line.read + line.chunk - 1, 'WITHSCORES')
    line.read = line.read + line.chunk
    line.next = 1
  end
  return line.found[line.next], tonumber(line.found[line.next + 1])
end

-- The lines of one fairness key: the queue without limits, and those of limits that are not blocked. What is blocked or
-- has run dry leaves the list and does not count: the work of another limit may stand behind it.
local function lines_of(lane, caps, fair, chunk, max)
  local lines = { new_line(Keys.queue(lane, caps, fair), chunk) }
  local key = Keys.lines(lane, caps, fair)
  local kept, dropped = 0, nil
  repeat
    dropped = false
    for _, limit in ipairs(redis.call('ZRANGE', key, kept, math.min(max, kept + math.max(looks, 1)) - 1)) do
      local line = new_line(Keys.queue(lane, caps, fair, limit), 4)
      local block = Blocks.read(limit)
      if not block and head(line) then
        line.limit = limit
        lines[#lines + 1] = line
        kept = kept + 1
      else
        Queues.leave_lines(lane, caps, fair, limit)
        dropped = true
        looks = looks - 1
        if block then Blocks.add(limit, nil, line.name, { lane, caps, fair }) end
      end
    end
  until not dropped or kept == max or looks <= 0
  return lines, dropped
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

-- The first of a ring, `max` and one more: that tells whether there is somebody to share with. Those with more turns than
-- the ring knows of are put behind, so that others may come first.
local function first_of(lane, ring, max, shared)
  local keys
  for _ = 1, ROUNDS do
    keys = redis.call('ZRANGE', ring, 0, max, 'WITHSCORES')
    looks = looks - 1
    if not shared and #keys <= 2 then return keys end
    local names, late = {}, {}
    for i = 1, #keys, 2 do names[#names + 1] = keys[i] end
    if #names == 0 then return keys end
    for i, turns in ipairs(redis.call('ZMSCORE', Keys.turns(lane), unpack(names))) do
      if turns and tonumber(turns) > tonumber(keys[i * 2]) then
        keys[i * 2] = turns
        late[#late + 1] = turns
        late[#late + 1] = names[i]
      end
    end
    if #late == 0 then return keys end
    redis.call('ZADD', ring, 'XX', unpack(late))
  end
  return keys
end

-- Adds to `tenants` {fairness key = {turns, lines}} those of one ring that have the fewest turns. A key that turns out
-- to have nothing leaves the ring, an empty ring the lane: then it returns true.
local function gather(lane, caps, max, tenants, shared)
  local ring = Keys.ring(lane, caps)
  local lines = {}
  local keys, dropped
  repeat
    dropped = false
    keys = first_of(lane, ring, max, shared)
    for i = 1, #keys, 2 do
      local fair = keys[i]
      if not lines[fair] and looks > 0 then
        local cut
        lines[fair], cut = lines_of(lane, caps, fair, #keys == 2 and max or 4, max)
        if not best_line(lines[fair]) then
          lines[fair] = nil
          if not cut then
            Queues.leave_ring(lane, caps, fair)
            dropped = true
          end
        end
      end
    end
  until not dropped or looks <= 0
  if #keys == 0 then
    Queues.drop_set(lane, caps)
    return true
  end
  for i = 1, #keys, 2 do
    if lines[keys[i]] then add_lines(tenants, keys[i], tonumber(keys[i + 1]), caps, lines[keys[i]]) end
  end
end

-- What a tenant has in the other rings, where it was too far behind to be met.
local function complete(lane, sets, max, tenants, tenant)
  tenant.complete = true
  local known = 0
  for _ in pairs(tenant.sets) do known = known + 1 end
  local more = tonumber(redis.call('HGET', Keys.rings(lane), tenant.fair) or 0) - known
  for _, caps in ipairs(sets) do
    if more <= 0 or looks <= 0 then return end
    if not tenant.sets[caps] then
      looks = looks - 1
      local turns = redis.call('ZSCORE', Keys.ring(lane, caps), tenant.fair)
      if turns then
        more = more - 1
        add_lines(tenants, tenant.fair, tonumber(turns), caps, (lines_of(lane, caps, tenant.fair, 4, max)))
      end
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
  Records.settle()
  return Blocks.aside(lane, function(caps) return serves(has, caps) end)
end

-- The turns that were taken, for the lane and the rings that were looked at.
local function count_turns(lane, tenants)
  for _, tenant in ipairs(tenants) do
    if tenant.served then
      redis.call('ZADD', Keys.turns(lane), 'XX', tenant.turns, tenant.fair)
      for caps in pairs(tenant.sets) do
        redis.call('ZADD', Keys.ring(lane, caps), 'XX', tenant.turns, tenant.fair)
      end
    end
  end
end

-- Turns that were taken in other partitions too. turns: [[fairness key, turns]].
function Queues.catch_up(lane, turns)
  local args = {}
  for _, each in ipairs(turns) do
    args[#args + 1] = each[2]
    args[#args + 1] = each[1]
  end
  if #args > 0 then redis.call('ZADD', Keys.turns(lane), 'XX', 'GT', unpack(args)) end
end

-- An execution was handed out: its limit has had a turn among those of its fairness key.
function Queues.count(x)
  if x.limit then
    redis.call('ZINCRBY', Keys.lines(x.lane, x.caps or '', x.fairness_key or ''), 1, x.limit)
  end
end

-- What a worker with these capabilities would get of one lane, best first: calls pick(id, tenant, score) at most `max` times.
-- has: {capability = true}; seen: how many tenants of a ring are looked at.
-- Returns how many it found, whether there may be more than it came to, the tenants, and whether
-- all of the lane's work is such that this worker can do it.
local function search(lane, has, max, seen, pick)
  Records.settle()
  looks = LOOKS + 2 * max
  local tenants, round = {}, 0
  local sets, all, drawn
  repeat
    round = round + 1
    sets, all, drawn = served_sets(lane, has)
    -- Of many rings only the first few tenants each.
    local most = #sets == 1 and seen or math.min(seen, math.max(1, math.floor(LOOKS / #sets)))
    for _, caps in ipairs(sets) do
      if looks <= 0 then break end
      if gather(lane, caps, most, tenants, #sets > 1) and caps ~= '' then round = 0 end
    end
    -- A draw may be of sets that have run dry, which have left by now, or of none that this worker serves.
  until #tenants > 0 or not drawn or looks <= 0 or round == ROUNDS
  local n = 0
  while n < max do
    local tenant, line = next_turn(tenants)
    if not tenant then break end
    if #sets > 1 and not tenant.complete then
      complete(lane, sets, max, tenants, tenant)
    else
      n = n + 1
      local id, score = head(line)
      pick(id, tenant, score)
      line.next = line.next + 2
      tenant.turns = tenant.turns + 1
      tenant.served = true
    end
  end
  return n, looks <= 0 or (drawn and n > 0), tenants, all
end

-- Up to `max` ids of ready executions of one lane for a worker with these capabilities, best first; they stay in their
-- queues until their records move on. Returns them, and whether there may be more than the call came to.
function Queues.take(lane, has, max)
  local ids = {}
  local n, cut, tenants, all = search(lane, has, max, max, function(id) ids[#ids + 1] = id end)
  -- Turns matter only where there is somebody to share with.
  if #tenants > 1 then count_turns(lane, tenants) end
  -- What this call put into the lane it has also taken out: nobody else has to look.
  if n < max and all and not cut then Call.unhint('ready', lane) end
  return ids, cut
end

-- The same to look at, for who compares several partitions: [[id, fairness key, score, turns of that key]], with the first of
-- every fairness key that was met, also past `max`. Returns them, and whether there may be more.
function Queues.heads(lane, has, max)
  local heads = {}
  local function add(id, tenant, score) heads[#heads + 1] = { id, tenant.fair, score, tenant.turns } end
  local n, cut, tenants = search(lane, has, max, max + BESIDE, add)
  for _, tenant in ipairs(tenants) do
    local line, score = best_line(tenant.lines)
    if line and not tenant.served then add((head(line)), tenant, score) end
  end
  return heads, cut or n == max
end
