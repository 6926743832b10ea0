-- Rings: the ready work of one (lane, set of required capabilities, kind). A worker looks at the rings that it can serve
-- and at no others, however many there are. Indexes that lead to the rings:
--   caps:<lane>|<name>            a group: capability sets in use that contain <name>; each set is in one group only
--   caps:<lane>, sets:<lane>      the names of the groups; hash {capability set = the name of its group}
--   fronts:<lane>|<caps>          kinds that have a ring, by a *front*: a score below or at that of the ring's first work
--   kinds:<lane>|<caps>           the same kinds by name, to find those with a prefix
-- A set joins the smallest group among its names, so that a worker with `gpu` and `model-7` need not look through all
-- sets with `gpu`. Work without required capabilities is in no group.
--
-- A front is lowered with each execution that joins, and raised only when a search finds that the first work has a
-- higher score: so the rings can be merged in the order of their fronts without looking at all of them.
--
-- Needs: Call, Keys, Profiles, Zsets.

-- How many capability sets a call looks at. Where there are more, each call draws some at random, so that none starves.
local SETS = 32
-- How many rings a search gets, the first by their fronts, and how many of all it gets beside them, drawn at random.
local MOST = 64
local DRAWN = 8
-- A worker that takes many kinds takes them from the first MOST of the lane, if at least this many are among them.
local ENOUGH = 16
-- How many kinds with one prefix a call looks at, and how many fronts of named kinds it reads: those of FEW_SETS in any
-- case.
local PREFIXED = 1000
local NAMED = 4000
local FEW_SETS = 8
-- How many keys of a lane without executions one call removes. The rest stays until a worker asks for work.
local FORGOTTEN = 200

local draws   -- how many numbers this call has drawn

Call.on_begin(function() draws = 0 end)

-- Draw a number from 0 to n - 1. Steps of the golden ratio spread the numbers of one call evenly (Weyl's sequence).
local function draw(n)
  draws = draws + 1
  return math.floor((Call.random + draws * 0.618034) % 1 * n)
end

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

local function drop_empty_group(lane, name)
  if redis.call('EXISTS', Keys.capability_group(lane, name)) == 0 then
    redis.call('SREM', Keys.capability_groups(lane), name)
  end
end

-- Remove a capability set from its group: no work requires it any more.
local function drop_set(lane, caps)
  local name = redis.call('HGET', Keys.capability_sets(lane), caps)
  if not name then return end
  redis.call('HDEL', Keys.capability_sets(lane), caps)
  redis.call('SREM', Keys.capability_group(lane, name), caps)
  drop_empty_group(lane, name)
end

-- Return the ring of a lane, which is the same table for all that a search finds. made: {key = ring}.
function Rings.of(made, lane, caps, kind, front)
  local key = Keys.ring(lane, caps, kind)
  local ring = made[key]
  if not ring then
    ring = { lane = lane, caps = caps, kind = kind, key = key, place = caps .. '|' .. kind, front = front }
    made[key] = ring
  end
  return ring
end

-- Work with this score joined a ring: put the ring into the indexes, and lower its front. Return whether it is new.
function Rings.lower(lane, caps, kind, score)
  local new = redis.call('ZADD', Keys.fronts(lane, caps), 'LT', Zsets.text(score), kind) == 1
  if new then
    redis.call('ZADD', Keys.kinds(lane, caps), 0, kind)
    add_set(lane, caps)
  end
  return new
end

-- The first work of a ring has this score.
function Rings.correct(ring, score)
  redis.call('ZADD', Keys.fronts(ring.lane, ring.caps), 'XX', Zsets.text(score), ring.kind)
end

-- A ring has no work: remove it from the indexes.
function Rings.drop(ring)
  redis.call('ZREM', Keys.fronts(ring.lane, ring.caps), ring.kind)
  redis.call('ZREM', Keys.kinds(ring.lane, ring.caps), ring.kind)
  if ring.caps ~= '' and redis.call('EXISTS', Keys.fronts(ring.lane, ring.caps)) == 0 then
    drop_set(ring.lane, ring.caps)
  end
end

-- Return the capability sets in use that a worker can serve, whether these are known to be all sets of the lane, and
-- whether they were drawn at random from more.
local function served_sets(lane, profile)
  local served = { '' }
  local total = redis.call('SCARD', Keys.capability_groups(lane))
  if total == 0 then return served, true, false end
  local names, groups = {}, {}
  for name in pairs(profile.has) do names[#names + 1] = name end
  if #names == 0 then return served, false, false end
  for i, known in ipairs(redis.call('SMISMEMBER', Keys.capability_groups(lane), unpack(names))) do
    if known == 1 then groups[#groups + 1] = Keys.capability_group(lane, names[i]) end
  end
  local all, drawn = #groups == total, false
  local each = math.max(1, math.floor(SETS / #groups))
  for _, group in ipairs(groups) do
    local sets
    if redis.call('SCARD', group) > each then
      sets, all, drawn = redis.call('SRANDMEMBER', group, each), false, true
    else
      sets = redis.call('SMEMBERS', group)
    end
    for _, caps in ipairs(sets) do
      if Profiles.serves(profile, caps) then served[#served + 1] = caps else all = false end
    end
  end
  return served, all, drawn
end

-- Return the kinds with work in a capability set that begin with a prefix, and whether they are a part of more.
local function prefixed(lane, caps, prefix)
  local key = Keys.kinds(lane, caps)
  local from, to = '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '/'   -- '/' comes after '.'
  local names = redis.call('ZRANGE', key, from, to, 'BYLEX', 'LIMIT', 0, PREFIXED)
  if #names < PREFIXED then return names, false end
  local more = redis.call('ZLEXCOUNT', key, from, to) - PREFIXED
  if more == 0 then return names, false end
  return redis.call('ZRANGE', key, from, to, 'BYLEX', 'LIMIT', draw(more + 1), PREFIXED), true
end

-- Return the kinds that a worker names, and those with work in a capability set that its prefixes name; and whether
-- there are more.
local function named(lane, caps, profile)
  if #profile.prefixes == 0 then return profile.names, false end
  local names, known, cut = {}, {}, false
  local function add(kinds)
    for _, kind in ipairs(kinds) do
      if not known[kind] then
        known[kind] = true
        names[#names + 1] = kind
      end
    end
  end
  add(profile.names)
  for _, prefix in ipairs(profile.prefixes) do
    if #names >= NAMED then return names, true end
    local found, more = prefixed(lane, caps, prefix)
    add(found)
    cut = cut or more
  end
  return names, cut
end

local function add(found, caps, kind, front)
  local n = #found.kinds + 1
  found.caps[n], found.kinds[n], found.fronts[n] = caps, kind, tonumber(front)
end

-- Add the kinds that a worker names, with their fronts, to `found`. Return whether there may be more.
local function add_named(found, lane, caps, profile)
  local names, cut = named(lane, caps, profile)
  for from = 1, #names, 2000 do
    local part = #names <= 2000 and names or { unpack(names, from, math.min(#names, from + 1999)) }
    for i, front in ipairs(redis.call('ZMSCORE', Keys.fronts(lane, caps), unpack(part))) do
      if front then add(found, caps, part[i], front) end
    end
  end
  return cut
end

-- Add the kinds from place `from` on that a worker takes, of MOST by their fronts, to `found`: all of them if no kinds
-- come after these, else only if they are `enough`. Return whether they were added, whether kinds come after them, and
-- the last front that was looked at.
local function add_first(found, lane, caps, profile, from, enough)
  local kinds = redis.call('ZRANGE', Keys.fronts(lane, caps), from, from + MOST, 'WITHSCORES')
  local last = math.min(#kinds, 2 * MOST)
  local taken = {}
  for i = 1, last, 2 do
    if Profiles.takes(profile, kinds[i]) then taken[#taken + 1] = i end
  end
  local more = #kinds > last
  if more and #taken < enough then return false, more end
  for _, i in ipairs(taken) do add(found, caps, kinds[i], kinds[i + 1]) end
  return true, more, tonumber(kinds[last])
end

-- Add the kinds with work in a capability set that a worker takes to `found`. Return whether there may be more.
local function add_kinds(found, lane, caps, profile)
  if profile.kinds and #profile.names <= MOST and #profile.prefixes == 0 then
    return add_named(found, lane, caps, profile)
  end
  local added, more, last = add_first(found, lane, caps, profile, 0, profile.kinds and ENOUGH or 0)
  if not added then return add_named(found, lane, caps, profile) end
  if not more then return false end
  found.bound = math.min(found.bound, last)
  local rest = redis.call('ZCARD', Keys.fronts(lane, caps)) - MOST
  add_first(found, lane, caps, profile, MOST + draw(rest), 0)
  return true
end

local function by_front(a, b) return a.front < b.front end

-- Choose among the kinds of `found`: the MOST with the lowest fronts, and some at random if there are more than `few`.
-- Return them as rings, by front; and lower `found.bound` to the fronts that are left out.
local function choose(made, lane, found, few)
  local n, rings, drawn = #found.fronts, {}, {}
  if n == 1 then return { Rings.of(made, lane, found.caps[1], found.kinds[1], found.fronts[1]) }, drawn end
  local function ring(i) return Rings.of(made, lane, found.caps[i], found.kinds[i], found.fronts[i]) end
  local last, equal = math.huge, 0
  if n > MOST then
    local fronts = {}
    for i, front in ipairs(found.fronts) do fronts[i] = front end
    table.sort(fronts)
    last = fronts[MOST]
    while equal < MOST and fronts[MOST - equal] == last do equal = equal + 1 end
    found.bound = math.min(found.bound, fronts[MOST + 1])
  end
  for i = 1, n do
    local front = found.fronts[i]
    if front < last or (front == last and equal > 0) then
      if front == last then equal = equal - 1 end
      rings[#rings + 1] = ring(i)
    end
  end
  if #rings > 1 then table.sort(rings, by_front) end
  if n > few then
    for i = 1, DRAWN do drawn[i] = ring(draw(n) + 1) end
  end
  return rings, drawn
end

-- Return the rings of a lane that a worker can serve, by their fronts, as {rings, drawn, made, bound, all, more, reads}.
-- drawn: some drawn at random, if there are more than `few`; made: see Rings.of; all: whether the worker serves all
-- capability sets of the lane; more: whether there are more rings than these, of which others are drawn the next time;
-- bound: work with a lower score is before all work of those; reads: how many reads of Valkey it took.
function Rings.find(lane, profile, few)
  local sets, all, more = served_sets(lane, profile)
  local reads, first = #sets, 0
  if profile.kinds and reads > FEW_SETS then
    reads = math.min(reads, math.max(FEW_SETS, math.floor(NAMED / (#profile.names + PREFIXED * #profile.prefixes))))
    if reads < #sets then first, more = draw(#sets), true end
  end
  local found = { caps = {}, kinds = {}, fronts = {}, bound = math.huge }
  for i = 1, reads do
    more = add_kinds(found, lane, sets[(first + i - 1) % #sets + 1], profile) or more
  end
  local made = {}
  local rings, drawn = choose(made, lane, found, few)
  more = more or #rings < #found.kinds
  return { rings = rings, drawn = drawn, made = made, bound = found.bound, all = all, more = more, reads = reads }
end

-- Remove the rings of one capability set of a lane without executions, at most about `room` keys. Return the room left.
local function forget_set(lane, caps, room)
  for _, kind in ipairs(redis.call('ZRANGE', Keys.fronts(lane, caps), 0, room - 1)) do
    local ring = Rings.of({}, lane, caps, kind)
    for _, fair in ipairs(redis.call('ZRANGE', ring.key, 0, room - 1)) do
      redis.call('UNLINK', Keys.lines(lane, caps, kind, fair), Keys.rings(lane, fair))
      redis.call('ZREM', ring.key, fair)
      room = room - 1
    end
    if redis.call('EXISTS', ring.key) == 0 then Rings.drop(ring) end
    room = room - 1
    if room <= 0 then break end
  end
  return room
end

-- A lane has no executions any more: remove the indexes that lead to its queues.
function Rings.forget(lane)
  local room = forget_set(lane, '', FORGOTTEN)
  for _, name in ipairs(redis.call('SRANDMEMBER', Keys.capability_groups(lane), math.max(room, 0))) do
    for _, caps in ipairs(redis.call('SRANDMEMBER', Keys.capability_group(lane, name), math.max(room, 0))) do
      room = forget_set(lane, caps, room)
      if room <= 0 then return end
    end
  end
  redis.call('UNLINK', Keys.turns(lane))
end
