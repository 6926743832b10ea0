-- Sorted sets, written once per call: changes are gathered per key and leave as one ZREM and one ZADD.

-- Lua's unpack() fails above about 8,000 values.
local CHUNK = 2000
local adds, removes   -- key -> {score, member, …}; key -> {member, …}
local texts           -- score -> its text: Valkey would write each number out anew

function Zsets.begin() adds, removes, texts = {}, {}, { [0] = '0' } end

local function at(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

function Zsets.add(key, score, member)
  local list = at(adds, key)
  local text = texts[score]
  if not text then
    text = string.format('%.17g', score)
    texts[score] = text
  end
  local n = #list
  list[n + 1], list[n + 2] = text, member
end

-- A member that is removed and added before the same flush stays; nobody adds and then removes.
function Zsets.remove(key, member)
  local list = at(removes, key)
  list[#list + 1] = member
end

local function write(command, lists)
  for key, list in pairs(lists) do
    for i = 1, #list, CHUNK do redis.call(command, key, unpack(list, i, math.min(i + CHUNK - 1, #list))) end
  end
end

function Zsets.flush()
  write('ZREM', removes)
  write('ZADD', adds)
  adds, removes = {}, {}
end
