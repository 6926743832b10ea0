-- Sorted sets, written once per call: changes are gathered per key and leave as one ZREM and one ZADD.
--
-- Needs: Call.

-- Lua's unpack() fails above about 8,000 values.
local CHUNK = 2000
local changes   -- key -> member -> its score as text, or false: it leaves
local texts     -- score -> its text: Valkey would write each number out anew

Call.on_begin(function() changes, texts = {}, { [0] = '0' } end)

local function at(key)
  local members = changes[key]
  if not members then
    members = {}
    changes[key] = members
  end
  return members
end

function Zsets.add(key, score, member)
  local text = texts[score]
  if not text then
    text = string.format('%.17g', score)
    texts[score] = text
  end
  at(key)[member] = text
end

function Zsets.remove(key, member) at(key)[member] = false end

local function write(command, key, list)
  for i = 1, #list, CHUNK do redis.call(command, key, unpack(list, i, math.min(i + CHUNK - 1, #list))) end
end

local function flush(key, members)
  local adds, removes, added, removed = {}, {}, 0, 0
  for member, text in pairs(members) do
    if text then
      adds[added + 1], adds[added + 2] = text, member
      added = added + 2
    else
      removed = removed + 1
      removes[removed] = member
    end
  end
  write('ZREM', key, removes)
  write('ZADD', key, adds)
end

function Zsets.flush()
  for key, members in pairs(changes) do flush(key, members) end
  changes = {}
end

-- Whether a set has members, those that this call has added among them.
function Zsets.exists(key)
  if changes[key] then
    flush(key, changes[key])
    changes[key] = nil
  end
  return redis.call('EXISTS', key) == 1
end

Call.on_write(Zsets.flush)
