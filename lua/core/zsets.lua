-- Sorted sets, written once per call: changes are gathered per key and leave as one ZREM and one ZADD.
--
-- Needs: Call.

local adds, removes   -- key -> {score, member, …}; key -> {member, …}
local texts           -- score -> its text: Valkey would write each number out anew
local changed         -- whose places are among these changes

Call.on_begin(function() adds, removes, texts, changed = {}, {}, { [0] = '0' }, {} end)

-- To be called before a record's places change: its earlier changes leave first, for what is removed leaves before what is
-- added. Returns true.
function Zsets.change(record)
  if changed[record] then Zsets.flush() end
  changed[record] = true
  return true
end

function Zsets.add(key, score, member)
  local list = table_at(adds, key)
  local text = texts[score]
  if not text then
    text = string.format('%.17g', score)
    texts[score] = text
  end
  local n = #list
  list[n + 1], list[n + 2] = text, member
end

-- A member that is removed and then added stays.
function Zsets.remove(key, member)
  local list = table_at(removes, key)
  list[#list + 1] = member
end

function Zsets.flush()
  for key, list in pairs(removes) do Call.bulk('ZREM', list, key) end
  for key, list in pairs(adds) do Call.bulk('ZADD', list, key) end
  adds, removes, changed = {}, {}, {}
end

-- Whether a set has members, those that this call has added among them.
function Zsets.exists(key)
  if adds[key] or removes[key] then Zsets.flush() end
  return redis.call('EXISTS', key) == 1
end

Call.on_write(Zsets.flush)
