-- Lists: pages of ids from sorted sets, and how many ids there may be. Where all scores are 0, ids sort by creation time,
-- so pages are newest first.
--
-- Needs: Errors, Records.

-- The most bytes of a page. A page of one item may be larger.
local PAGE_BYTES = 512 * 1024

-- Return ids of one sorted set, newest first, older than `cursor` (an id; nil: from the newest), down to `oldest` (nil:
-- to the end).
local function newest(key, cursor, oldest, limit)
  local from = cursor and '(' .. cursor or '+'
  return redis.call('ZRANGE', key, from, oldest and '[' .. oldest or '-', 'BYLEX', 'REV', 'LIMIT', 0, limit)
end

-- Page through one sorted set of executions by descending score. Return the same as `merge`.
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

-- Page through several sorted sets of records of one kind, newest first: at most `limit` ids for which `keep(id)`
-- holds, out of at most `budget` records. Return the ids and the cursor (nil at the end). oldest: the id at which the list
-- ends; nil: it has no such end. others: ids that are in no set.
function Lists.merge(kind, keys, cursor, limit, budget, keep, oldest, others)
  local ids = {}
  local complete_from   -- all sets have been read down to this id; some may have older ids that were not read
  for _, key in ipairs(keys) do
    local found = newest(key, cursor, oldest, budget)
    for _, id in ipairs(found) do ids[#ids + 1] = id end
    if #found == budget then
      local last = found[#found]
      if not complete_from or last > complete_from then complete_from = last end
    end
  end
  for _, id in ipairs(others or {}) do
    if not cursor or id < cursor then ids[#ids + 1] = id end
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

-- Return a page as a reply, {items, cursor}: view(id) of each id, cut off before the page gets larger than PAGE_BYTES.
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

-- Refuse one more where a sorted set already has `most`. Only what calls before this one added is counted, so one batch may
-- go a little beyond. Errors: invalid_request {field}.
function Lists.check_room(key, most, field)
  if redis.call('ZCARD', key) >= most then Errors.invalid(field, 'there are ' .. most .. ' of them already') end
end
