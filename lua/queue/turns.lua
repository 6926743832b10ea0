-- Choose the next execution of a lane. Fairness keys share a lane by stride scheduling with equal tickets (Waldspurger
-- and Weihl, 1995): the key with the fewest turns goes next. A new key starts at the present minimum, so it neither
-- starves nor owns the lane. Turns count for the whole lane: a key with work in several rings gets one share. A ring's
-- count may lag behind, since a call counts turns only in the rings that it looked at; first_of corrects the ring.
--
-- Rings are opened in the order of their fronts, as in a merge of sorted lists: a ring is not looked at while better work
-- is at hand. Where several fairness keys share the lane, turns come before scores, so that some rings are opened at once.
--
-- The work of one call is bounded, however wide the lane is; the rest is left to the next call.
--
-- A *tenant* is a fairness key in one search; a *line* is one of its queues (queue/lines.lua).
--
-- Needs: Blocks, Call, Keys, Lines, Profiles, Records, Rings, Tenants.

-- How many rings of a shared lane a call opens at once: the first by their fronts. Some more are drawn at random, and
-- the tenants with the fewest turns are looked at too: a tenant gets its turn, however late its work comes.
local OPENED = 16
local LEAST = 8
-- How many rings with equal fronts a call opens, so that the older of two executions of one millisecond is first.
local EQUAL = 16
-- How many reads of rings and queues a call may make, in addition to one per requested execution.
local LOOKS = 100
-- How many more fairness keys than `max` Queues.heads looks at, for a caller that compares partitions: counting the
-- turns of other partitions, one of these may be next.
local BESIDE = 8
-- How often first_of corrects a ring before taking it as it is, and how often search draws rings in vain.
local ROUNDS = 4

-- Return the first `max` + 1 fairness keys of a ring with their turns; one more than `max`, to see whether the ring is
-- shared. Correct keys that have more turns in the lane than in the ring, so that other keys may come first.
local function first_of(ring, max, shared)
  local keys
  for _ = 1, ROUNDS do
    keys = redis.call('ZRANGE', ring.key, 0, max, 'WITHSCORES')
    Lines.look()
    if not shared and #keys <= 2 then return keys end
    local names, late = {}, {}
    for i = 1, #keys, 2 do names[#names + 1] = keys[i] end
    if #names == 0 then return keys end
    for i, turns in ipairs(redis.call('ZMSCORE', Keys.turns(ring.lane), unpack(names))) do
      if turns and tonumber(turns) > tonumber(keys[i * 2]) then
        keys[i * 2] = turns
        late[#late + 1] = turns
        late[#late + 1] = names[i]
      end
    end
    if #late == 0 then return keys end
    redis.call('ZADD', ring.key, 'XX', unpack(late))
  end
  return keys
end

-- Open a ring: add its fairness keys with the fewest turns to the tenants of the pool. Remove keys without work from the
-- ring; if none is left, remove the ring from the lane and return true.
local function gather(pool, ring)
  local lines = {}
  local keys, dropped
  repeat
    dropped = false
    keys = first_of(ring, pool.most, pool.shared)
    for i = 1, #keys, 2 do
      local fair = keys[i]
      if not lines[fair] and not Lines.spent() then
        local found, cut = Lines.of(ring, fair, #keys == 2 and pool.max or 4, pool.max)
        local best, score = Lines.best(found)
        if best then
          lines[fair] = found
          if #keys == 2 and #pool.rings > 1 and score ~= ring.front then Rings.correct(ring, score) end
        elseif not cut then
          Queues.leave_ring(ring, fair)
          if #keys == 2 then keys = {} else dropped = true end
        end
      end
    end
  until not dropped or Lines.spent()
  if #keys == 0 then
    Lines.look()
    Rings.drop(ring)
    return true
  end
  for i = 1, #keys, 2 do
    if lines[keys[i]] then Tenants.add(Tenants.of(pool, keys[i], tonumber(keys[i + 1])), ring, lines[keys[i]]) end
  end
end

-- Return the first block to end that holds back work of this lane for a worker, or nil.
function Queues.aside(lane, profile)
  Records.settle()
  return Blocks.aside(lane, function(caps, kind)
    return Profiles.serves(profile, caps) and Profiles.takes(profile, kind)
  end)
end

-- Write the turns of the served tenants to the lane and to the rings that this call looked at.
local function count_turns(lane, tenants)
  for _, tenant in ipairs(tenants) do
    if tenant.served then
      redis.call('ZADD', Keys.turns(lane), 'XX', tenant.turns, tenant.fair)
      for ring in pairs(tenant.rings) do redis.call('ZADD', ring.key, 'XX', tenant.turns, tenant.fair) end
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
    redis.call('ZINCRBY', Keys.lines(x.lane, x.caps or '', Queues.kind(x), x.fairness_key or ''), 1, x.limit)
  end
end

-- Open the rings of a shared lane that are looked at in any case. Return whether one of them was without work.
local function open_some(pool)
  local dropped = false
  local function open(ring)
    if not Lines.spent() then dropped = gather(pool, ring) or dropped end
  end
  while pool.opened < math.min(#pool.rings, OPENED) do
    pool.opened = pool.opened + 1
    open(pool.rings[pool.opened])
  end
  for _, ring in ipairs(pool.drawn) do open(ring) end
  local least = redis.call('ZRANGE', Keys.turns(pool.lane), 0, LEAST - 1, 'WITHSCORES')
  for i = 1, #least, 2 do
    if not pool.tenants[least[i]] then Tenants.complete(pool, Tenants.of(pool, least[i], tonumber(least[i + 1]))) end
  end
  return dropped
end

-- Return the next ring to be opened, if it may have better work than one with this score (nil: than none).
local function promising(pool, score)
  local ring = pool.rings[pool.opened + 1]
  if not ring or Lines.spent() then return nil end
  if not score or ring.front < score or (ring.front == score and pool.opened < EQUAL) then return ring end
end

-- Return the tenant whose turn it is, its best line and the line's score, after opening the rings that may have better
-- work; nil when there is none. Return also whether one of these rings was without work.
local function next_best(pool)
  local dropped = false
  while true do
    local tenant, line, score = Tenants.next(pool.tenants)
    local ring = promising(pool, score)
    if not ring then return tenant, line, score, dropped end
    repeat
      pool.opened = pool.opened + 1
      dropped = gather(pool, ring) or dropped
      ring = score and promising(pool, score)
    until not ring
  end
end

-- Search one lane for work for a worker, best first: call pick(id, tenant, score) at most `max` times.
-- seen: how many tenants of a ring are looked at.
-- Return how many were found, whether there may be more that the search did not reach, the tenants, and whether this
-- worker can serve all of the lane's capability sets.
local function search(lane, profile, max, seen, pick)
  Records.settle()
  Lines.allow(LOOKS + max)
  local round = 0
  local pool, tenant, line, score
  repeat
    round = round + 1
    pool = Rings.find(lane, profile, OPENED)
    Lines.look(pool.reads)
    pool.lane, pool.profile, pool.max, pool.most = lane, profile, max, seen
    pool.tenants, pool.opened = {}, 0
    pool.shared = #pool.rings > 1 and redis.call('ZCARD', Keys.turns(lane)) > 1
    local dropped, late = false, nil
    if pool.shared then
      -- Where there are many rings, look only at the first few tenants of each.
      pool.most = math.min(seen, math.max(1, math.floor(LOOKS / math.min(#pool.rings, OPENED))))
      dropped = open_some(pool)
    end
    tenant, line, score, late = next_best(pool)
    if dropped or late then round = 0 end
    -- Look again if all rings were empty (they have been removed by now) or none of those drawn was for this worker.
  until tenant or not pool.more or Lines.spent() or round == ROUNDS
  local n = 0
  -- Mostly all work is in one queue: then it comes in its order, and there is nothing to compare.
  local alone = tenant and #pool.tenants == 1 and #tenant.lines == 1 and not pool.shared and pool.opened == #pool.rings
    and pool.bound == math.huge
  while alone and n < max do
    local id, its_score = Lines.head(line)
    if not id then break end
    pick(id, tenant, its_score)
    line.next = line.next + 2
    n, tenant.turns, tenant.served = n + 1, tenant.turns + 1, true
  end
  while tenant and not alone do
    if pool.shared and not tenant.complete then
      Tenants.complete(pool, tenant)
    else
      n = n + 1
      pick((Lines.head(line)), tenant, score)
      line.next = line.next + 2
      tenant.turns = tenant.turns + 1
      tenant.served = true
    end
    if n == max then break end
    tenant, line, score = next_best(pool)
    -- Rings that were not looked at may have better work.
    if score and score > pool.bound and not pool.shared then break end
  end
  return n, Lines.spent() or (pool.more and n > 0), pool.tenants, pool.all
end

-- Take back the hints that the lane has work that this worker takes.
local function unhint(lane, profile)
  for key in pairs(Call.hints.ready or {}) do
    local of, kind = string.match(key, '^(.*)|(.*)$')
    if of == lane and Profiles.takes(profile, kind) then Call.unhint('ready', key) end
  end
end

-- Return up to `max` ids of ready executions of one lane for a worker, best first, and whether there may be more that
-- the search did not reach. The ids stay in their queues until their records change.
function Queues.take(lane, profile, max)
  local ids = {}
  local n, cut, tenants, all = search(lane, profile, max, max, function(id) ids[#ids + 1] = id end)
  -- Turns matter only where several fairness keys share the lane.
  if #tenants > 1 then count_turns(lane, tenants) end
  -- The lane has no work left for this worker, also none that this call put into it.
  if n < max and all and not cut then unhint(lane, profile) end
  return ids, cut
end

-- Return what Queues.take would take, for a caller that compares several partitions: [[id, fairness key, score, turns
-- of that key]], and the best id of each further fairness key that was seen, even past `max`. Return also whether there
-- may be more.
function Queues.heads(lane, profile, max)
  local heads = {}
  local function add(id, tenant, score) heads[#heads + 1] = { id, tenant.fair, score, tenant.turns } end
  local n, cut, tenants = search(lane, profile, max, max + BESIDE, add)
  for _, tenant in ipairs(tenants) do
    local line, score = Lines.best(tenant.lines)
    if line and not tenant.served then add((Lines.head(line)), tenant, score) end
  end
  return heads, cut or n == max
end
