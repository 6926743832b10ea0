-- Sorted sets: changes are gathered per key, and written with one ZREM and one ZADD per key.
--
-- Needs: Call.

local adds, removes = {}, {}             -- key -> {score, member, …}; key -> {member, …}
local flushes                            -- how many flushes there were in this call
local KNOWN = 100                        -- size of the cache `texts`; a full cache is emptied
local texts, count = { [0] = '0' }, 1    -- score -> its text, kept between calls: Valkey would format each number anew

Call.on_begin(function()
  flushes = 0
  if next(adds) or next(removes) then adds, removes = {}, {} end   -- left by a call that failed half-way
end)

-- Return the text of a score, which is not in the cache.
local function new_text(score)
  if count >= KNOWN then texts, count = { [0] = '0' }, 1 end
  local text = string.format('%.17g', score)
  texts[score], count = text, count + 1
  return text
end

-- Return the text of a score, for a command that is written at once.
function Zsets.text(score) return texts[score] or new_text(score) end

-- Must be called before a record's places change. A flush removes before it adds, so earlier changes of the same record
-- must be flushed first. book: a table that belongs to the record; its field `changed` is used here. Return true.
function Zsets.change(book)
  if book.changed == flushes then Zsets.flush() end
  book.changed = flushes
  return true
end

function Zsets.add(key, score, member)
  local list, text = adds[key], texts[score] or new_text(score)
  if list then
    local n = #list
    list[n + 1], list[n + 2] = text, member
  else
    adds[key] = { text, member }
  end
end

-- Remove a member. A member that is added in the same flush stays, whichever was called first.
function Zsets.remove(key, member)
  local list = removes[key]
  if list then list[#list + 1] = member else removes[key] = { member } end
end

function Zsets.flush()
  flushes = flushes + 1
  if next(removes) then
    for key, list in pairs(removes) do Call.bulk('ZREM', list, key) end
    removes = {}
  end
  if next(adds) then
    for key, list in pairs(adds) do Call.bulk('ZADD', list, key) end
    adds = {}
  end
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
