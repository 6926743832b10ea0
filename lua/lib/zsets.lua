-- Sorted sets, written once per call: changes are gathered per key and leave as one ZREM and one ZADD.

-- Lua's unpack() fails above about 8,000 values.
local CHUNK = 2000
local pending

function Zsets.begin() pending = {} end

local function changes(key)
  local of = pending[key]
  if not of then
    of = {}
    pending[key] = of
  end
  return of
end

function Zsets.add(key, score, member) changes(key)[member] = score end

function Zsets.remove(key, member) changes(key)[member] = false end

local function flush_key(key, members)
  local adds, removes = {}, {}
  for member, score in pairs(members) do
    if score then
      adds[#adds + 1] = score
      adds[#adds + 1] = member
    else
      removes[#removes + 1] = member
    end
  end
  for i = 1, #removes, CHUNK do
    redis.call('ZREM', key, unpack(removes, i, math.min(i + CHUNK - 1, #removes)))
  end
  for i = 1, #adds, CHUNK do
    redis.call('ZADD', key, unpack(adds, i, math.min(i + CHUNK - 1, #adds)))
  end
end

function Zsets.flush()
  for key, members in pairs(pending) do flush_key(key, members) end
  pending = {}
end
