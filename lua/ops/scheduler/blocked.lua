-- The scheduler's ops that tell which limits hold back ready work, and who holds their slots.
--
-- Needs: Due, Keys, Records.
local ops = Ops.scheduler

local QUEUES = 50    -- queues of one block that are looked at
local SAMPLE = 5     -- waiting executions that are named
local HOLDERS = 10   -- holders of slots that are named

-- limits_blocked: return this partition's blocks, the one that ends first in front. args: lane (optional: only blocks of
-- its work), limit. reply: {items [{tokens (without room), waiting (executions), lanes, sample (ids), until_at}], more}.
-- errors, events: none.
function ops.limits_blocked(a)
  Records.settle()
  local ids = redis.call('ZRANGE', Due.key('scheduler', 'block'), 0, a.limit)
  local more = #ids > a.limit
  Records.prefetch('block', ids)
  local items = {}
  for i = 1, math.min(#ids, a.limit) do
    local block = Records.read('block', ids[i])
    local lanes, names, waiting, sample, queues = {}, {}, 0, {}, 0
    for name, place in pairs(block and block.queues or {}) do
      if queues < QUEUES and (not a.lane or place[1] == a.lane) then
        queues = queues + 1
        waiting = waiting + redis.call('ZCARD', name)
        if not names[place[1]] then lanes[#lanes + 1], names[place[1]] = place[1], true end
        if #sample < SAMPLE then
          for _, id in ipairs(redis.call('ZRANGE', name, 0, SAMPLE - #sample - 1)) do sample[#sample + 1] = id end
        end
      end
    end
    if waiting > 0 then
      local tokens = {}
      for token in pairs(block.full) do tokens[#tokens + 1] = token end
      items[#items + 1] = { tokens = tokens, waiting = waiting, lanes = lanes, sample = sample, until_at = block.until_at }
    end
  end
  return { items = items, more = more }
end

-- limit_holders: return the executions that hold slots of a token that is kept here, some of them. args: token.
-- reply: {ids}. errors, events: none.
function ops.limit_holders(a)
  local ids = {}
  for i, slot in ipairs(redis.call('ZREVRANGE', Keys.slots(a.token), 0, HOLDERS - 1)) do ids[i] = string.match(slot, '^[^|]+') end
  return { ids = ids }
end
