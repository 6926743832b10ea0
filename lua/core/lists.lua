-- Lists: pages of the ids of sorted sets, newest first where all scores are 0 (ids sort by creation time).
--
-- Needs: Records.

-- A page has at least one item, and not more bytes than this with a second one.
local PAGE_BYTES = 512 * 1024

-- Ids of one sorted set, newest first, before `cursor` (an id).
local function newest(key, cursor, limit)
  local from = cursor and '(' .. cursor or '+'
  return redis.call('ZRANGE', key, from, '-', 'BYLEX', 'REV', 'LIMIT', 0, limit)
end

-- Backwards through one sorted set of executions in the order of its scores: a page as `merge` gives it.
function Lists.backwards(key, cursor, limit, budget, keep)
  local start = 0
  if cursor then
    local rank = redis.call('ZREVRANK', key, cursor)
    if not rank then return {} end
    start = rank + 1
  end
  local found = redis.call('ZREVRANGE', key, start, start + budget - 1)
  Records.prefetch('x', found)
  local page = {}
  for _, id in ipairs(found) do
    if keep(id) then page[#page + 1] = id end
    if #page == limit then return page, id end
  end
  return page, #found == budget and found[budget] or nil
end

-- Newest first over several sorted sets of records of one kind: a page of at most `limit` ids for which `keep(id)`
-- holds, looking at no more than `budget` records. Returns the ids and the cursor (nil at the end).
function Lists.merge(kind, keys, cursor, limit, budget, keep)
  local ids = {}
  local complete_from   -- below this id some set has not been read
  for _, key in ipairs(keys) do
    local found = newest(key, cursor, budget)
    for _, id in ipairs(found) do ids[#ids + 1] = id end
    if #found == budget then
      local last = found[#found]
      if not complete_from or last > complete_from then complete_from = last end
    end
  end
  table.sort(ids, function(a, b) return a > b end)
  local looked = {}
  for i = 1, math.min(budget, #ids) do looked[i] = ids[i] end
  Records.prefetch(kind, looked)
  local page = {}
  for i, id in ipairs(looked) do
    if complete_from and id < complete_from then break end
    if keep(id) then page[#page + 1] = id end
    if #page == limit or (i == budget and #ids > budget) then return page, id end
  end
  return page, complete_from
end

-- A page as it is answered: what `view(id)` gives, cut before it is more than one message carries, and the cursor.
function Lists.page(ids, cursor, view)
  local items, bytes = {}, 0
  for i, id in ipairs(ids) do
    local item = view(id)
    bytes = bytes + #pack(item)
    if i > 1 and bytes > PAGE_BYTES then return { items = items, cursor = ids[i - 1] } end
    items[i] = item
  end
  return { items = items, cursor = cursor }
end
