-- Sorted sets: changes are gathered per key, and written with one ZREM and one ZADD per key.
--
-- Needs: Call.

local adds, removes   -- key -> {score, member, …}; key -> {member, …}
local texts           -- score -> its text: a cache, since Valkey would format each number anew
local flushes         -- how many flushes there were in this call

Call.on_begin(function() adds, removes, texts, flushes = {}, {}, { [0] = '0' }, 0 end)

-- Must be called before a record's places change. A flush removes before it adds, so earlier changes of the same record
-- must be flushed first. book: a table that belongs to the record; its field `changed` is used here. Return true.
function Zsets.change(book)
  if book.changed == flushes then Zsets.flush() end
  book.changed = flushes
  return true
end

function Zsets.add(key, score, member)
  local list = adds[key] or table_at(adds, key)
  local text = texts[score]
  if not text then
    text = string.format('%.17g', score)
    texts[score] = text
  end
  local n = #list
  list[n + 1], list[n + 2] = text, member
end

-- Remove a member. A member that is added in the same flush stays, whichever was called first.
function Zsets.remove(key, member)
  local list = removes[key] or table_at(removes, key)
  list[#list + 1] = member
end

function Zsets.flush()
  for key, list in pairs(removes) do Call.bulk('ZREM', list, key) end
  for key, list in pairs(adds) do Call.bulk('ZADD', list, key) end
  adds, removes, flushes = {}, {}, flushes + 1
end

-- Return whether a sorted set has members, counting the changes of this call.
function Zsets.exists(key)
  if adds[key] or removes[key] then Zsets.flush() end
  return redis.call('EXISTS', key) == 1
end

-- Return the lowest score in a sorted set, counting the changes of this call; nil when it has no members.
function Zsets.lowest(key)
  if adds[key] or removes[key] then Zsets.flush() end
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or nil)
end

Call.on_write(Zsets.flush)
