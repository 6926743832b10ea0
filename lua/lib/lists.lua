-- Lists: per lane and state one sorted set of ids (all scores 0: ids sort by creation time), and the lanes.

function Lists.state_key(lane, state) return Call.root .. ':s:' .. lane .. ':' .. state end

-- A tag is found by its name and by `name=value`.
function Lists.tag_key(tag) return Call.root .. ':tag:' .. tag end

function Lists.place_tags(tags, placement)
  for name, value in pairs(tags) do
    placement[Lists.tag_key(name)] = 0
    placement[Lists.tag_key(name .. '=' .. value)] = 0
  end
end

local used

function Lists.begin() used = {} end

local function lanes_key() return Call.root .. ':lanes' end

-- The first execution makes its lane known.
function Lists.lane_used(lane)
  if used[lane] then return end
  used[lane] = true
  if redis.call('ZSCORE', lanes_key(), lane) == false then redis.call('ZADD', lanes_key(), 0, lane) end
end

-- Lanes in alphabetical order after `cursor`.
function Lists.lanes(cursor, limit)
  local from = cursor and '(' .. cursor or '-'
  return redis.call('ZRANGE', lanes_key(), from, '+', 'BYLEX', 'LIMIT', 0, limit)
end

local function lane_key(lane) return Call.root .. ':lane:' .. lane end

function Lists.lane_status(lane) return redis.call('GET', lane_key(lane)) or 'active' end

function Lists.lane_paused(lane) return Lists.lane_status(lane) ~= 'active' end

-- Ids of one sorted set, newest first, before `cursor` (an id).
function Lists.newest(key, cursor, limit)
  local from = cursor and '(' .. cursor or '+'
  return redis.call('ZRANGE', key, from, '-', 'BYLEX', 'REV', 'LIMIT', 0, limit)
end

-- Newest first over several sorted sets: a page of at most `limit` ids for which `keep(id)` holds, looking at no
-- more than `budget` of each set. Returns the ids and the cursor (nil at the end).
function Lists.merge(keys, cursor, limit, budget, keep)
  local ids = {}
  local complete_from   -- below this id some set has not been read
  for _, key in ipairs(keys) do
    local found = Lists.newest(key, cursor, budget)
    for _, id in ipairs(found) do ids[#ids + 1] = id end
    if #found == budget then
      local last = found[#found]
      if not complete_from or last > complete_from then complete_from = last end
    end
  end
  table.sort(ids, function(a, b) return a > b end)
  local page = {}
  for _, id in ipairs(ids) do
    if complete_from and id < complete_from then break end
    if keep(id) then page[#page + 1] = id end
    if #page == limit then return page, id end
  end
  return page, complete_from
end
