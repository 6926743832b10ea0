-- Tenants: the fairness keys of one search with their lines, and whose turn it is (queue/turns.lua). A tenant is {fair,
-- turns, lines, rings = {ring whose lines are among these = true}, complete, served}; a pool lists them and finds them by
-- their fairness keys: pool.tenants.
--
-- Needs: Keys, Lines, Profiles, Queues, Rings.

-- Where a tenant has work only in rings that were not looked at: how many of them are drawn, and how many opened.
local PLACES = 48
local VISITED = 4

-- Return a tenant of the pool, which is added when it is new.
function Tenants.of(pool, fair, turns)
  local tenant = pool.tenants[fair]
  if not tenant then
    tenant = { fair = fair, turns = turns, lines = {}, rings = {} }
    pool.tenants[fair] = tenant
    pool.tenants[#pool.tenants + 1] = tenant
  end
  tenant.turns = math.max(tenant.turns, turns)
  return tenant
end

-- Add lines of one ring to their tenant, unless it has them already.
function Tenants.add(tenant, ring, lines)
  if tenant.rings[ring] then return end
  tenant.rings[ring] = true
  for _, line in ipairs(lines) do tenant.lines[#tenant.lines + 1] = line end
end

-- Add a tenant's lines in a ring, if it has work there. Return whether it has.
local function visit(pool, tenant, ring)
  local lines, cut = Lines.of(ring, tenant.fair, 4, pool.max)
  if Lines.best(lines) then
    Tenants.add(tenant, ring, lines)
    return true
  end
  if not cut then
    Queues.leave_ring(ring, tenant.fair)
    -- A ring that nobody has work in would cost every later search that draws it.
    if redis.call('EXISTS', ring.key) == 0 then Rings.drop(ring) end
  end
  return false
end

-- Return the places of the pool's rings, which are the same for all of its tenants.
local function places_of(pool)
  if not pool.places then
    pool.places = {}
    for i, ring in ipairs(pool.rings) do pool.places[i] = ring.place end
  end
  return pool.places
end

-- Add a tenant's lines in the other rings, where it was too far behind to be among the first keys, or which were not
-- opened. Look for it beyond the rings of the pool only if it has no work there.
function Tenants.complete(pool, tenant)
  tenant.complete = true
  Lines.look()
  local key, known = Keys.rings(pool.lane, tenant.fair), 0
  for _ in pairs(tenant.rings) do known = known + 1 end
  if redis.call('SCARD', key) <= known then return end
  for i, inside in ipairs(redis.call('SMISMEMBER', key, unpack(places_of(pool)))) do
    if Lines.spent() then return end
    local ring = pool.rings[i]
    if inside == 1 and not tenant.rings[ring] then visit(pool, tenant, ring) end
  end
  if next(tenant.rings) or not pool.more then return end
  local visited = 0
  for _, place in ipairs(redis.call('SRANDMEMBER', key, PLACES)) do
    if visited == VISITED or Lines.spent() then return end
    local caps, kind = string.match(place, '^(.*)|(.*)$')
    if Profiles.serves(pool.profile, caps) and Profiles.takes(pool.profile, kind) then
      if visit(pool, tenant, Rings.of(pool.made, pool.lane, caps, kind, 0)) then visited = visited + 1 end
    end
  end
end

-- Return the tenant with the fewest turns (of equals, the one whose best line has the lowest score), its best line and
-- that line's score; nil when no tenant has work left.
function Tenants.next(tenants)
  local first, first_line, first_score
  for _, tenant in ipairs(tenants) do
    if not first or tenant.turns <= first.turns then
      local line, score = Lines.best(tenant.lines)
      if line and (not first or tenant.turns < first.turns or score < first_score) then
        first, first_line, first_score = tenant, line, score
      end
    end
  end
  return first, first_line, first_score
end
