-- Choose the next execution of a lane. Fairness keys share a lane by stride scheduling with equal tickets (Waldspurger
-- and Weihl, 1995): the key with the fewest turns goes next. A new key starts at the present minimum, so it neither
-- starves nor owns the lane. Turns count for the whole lane: a key with work in several rings gets one share. A ring's
-- count may lag behind, since a call counts turns only in the rings that it looked at; first_of corrects the ring.
--
-- The work of one call is bounded, however wide the lane is; the rest is left to the next call. Where there are more
-- than LOOKED_AT capability sets, each call draws some at random, so that none starves.
--
-- A *tenant* is a fairness key in one search; a *line* is one of its queues.
--
-- Needs: Blocks, Call, Keys, Records.

-- How many capability sets a call looks at.
local LOOKED_AT = 48
-- How many reads of rings and queues a call may make, in addition to two per requested execution.
local LOOKS = 150
-- How many more fairness keys than `max` Queues.heads looks at, for a caller that compares partitions: counting the
-- turns of other partitions, one of these may be next.
local BESIDE = 8
-- How often first_of corrects a ring before taking it as it is, and how often search draws capability sets in vain.
local ROUNDS = 4

local looks   -- how many reads this call may still make

-- Return whether a worker with the capabilities `has` may do work that requires `caps` (a comma-joined list).
local function serves(has, caps)
  for name in string.gmatch(caps, '[^,]+') do
    if not has[name] then return false end
  end
  return true
end

-- Return the capability sets in use that a worker can serve, whether these are known to be all sets of the lane, and
-- whether they were drawn at random from more.
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

-- Return a line: a queue that is read `chunk` ids at a time.
local function new_line(name, chunk)
  return { name = name, chunk = chunk, read = 0, next = 1, found = {} }
end

-- Return the id at the head of a line and its score, or nil when the line is empty.
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

-- Return the lines of one fairness key: the queue without a limit, and the queues of limits that are not blocked.
-- Blocked and empty queues are removed from the key's lines and do not count toward `max`, since other limits may come
-- after them. Return also whether the reads ran out before all were seen.
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

-- Return the line whose head is first by priority, time and id, and the head's score; nil when all lines are empty.
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

-- Add lines of one ring to their tenant, which is created when it is new.
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

-- Return the first `max` + 1 fairness keys of a ring with their turns; one more than `max`, to see whether the ring is
-- shared. Correct keys that have more turns in the lane than in the ring, so that other keys may come first.
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

-- Add the fairness keys of one ring with the fewest turns to `tenants` {fairness key = {turns, lines}}. Remove keys
-- without work from the ring. If the ring is empty, remove its capability set from the lane and return true.
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

-- Add a tenant's lines in the other rings, where it was too far behind to be among the first keys.
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

-- Return the tenant with the fewest turns (of equals, the one whose best line has the lowest score) and its best line;
-- nil when no tenant has work left.
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

-- Return the first block to end that holds back work of this lane for a worker with these capabilities, or nil.
function Queues.aside(lane, has)
  Records.settle()
  return Blocks.aside(lane, function(caps) return serves(has, caps) end)
end

-- Write the turns of the served tenants to the lane and to the rings that this call looked at.
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

-- Raise turns of fairness keys to those that they have taken in all partitions. turns: [[fairness key, turns]].
function Queues.catch_up(lane, turns)
  local args = {}
  for _, each in ipairs(turns) do
    args[#args + 1] = each[2]
    args[#args + 1] = each[1]
  end
  if #args > 0 then redis.call('ZADD', Keys.turns(lane), 'XX', 'GT', unpack(args)) end
end

-- An execution was handed out: count a turn for its limit among the limits of its fairness key.
function Queues.count(x)
  if x.limit then
    redis.call('ZINCRBY', Keys.lines(x.lane, x.caps or '', x.fairness_key or ''), 1, x.limit)
  end
end

-- Search one lane for work for a worker, best first: call pick(id, tenant, score) at most `max` times.
-- has: {capability = true}; seen: how many tenants of a ring are looked at.
-- Return how many were found, whether there may be more that the search did not reach, the tenants, and whether this
-- worker can serve all of the lane's capability sets.
local function search(lane, has, max, seen, pick)
  Records.settle()
  looks = LOOKS + 2 * max
  local tenants, round = {}, 0
  local sets, all, drawn
  repeat
    round = round + 1
    sets, all, drawn = served_sets(lane, has)
    -- Where there are many rings, look only at the first few tenants of each.
    local most = #sets == 1 and seen or math.min(seen, math.max(1, math.floor(LOOKS / #sets)))
    for _, caps in ipairs(sets) do
      if looks <= 0 then break end
      if gather(lane, caps, most, tenants, #sets > 1) and caps ~= '' then round = 0 end
    end
    -- Draw again if all drawn sets were empty (they have been removed by now) or none was for this worker.
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

-- Return up to `max` ids of ready executions of one lane for a worker with these capabilities, best first, and whether
-- there may be more that the search did not reach. The ids stay in their queues until their records change.
function Queues.take(lane, has, max)
  local ids = {}
  local n, cut, tenants, all = search(lane, has, max, max, function(id) ids[#ids + 1] = id end)
  -- Turns matter only where several fairness keys share the lane.
  if #tenants > 1 then count_turns(lane, tenants) end
  -- The lane has no work left, also none that this call put into it: take the hint `ready` back.
  if n < max and all and not cut then Call.unhint('ready', lane) end
  return ids, cut
end

-- Return what Queues.take would take, for a caller that compares several partitions: [[id, fairness key, score, turns
-- of that key]], and the best id of each further fairness key that was seen, even past `max`. Return also whether there
-- may be more.
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
