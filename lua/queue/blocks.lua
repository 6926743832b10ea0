-- Blocks: when a limit has no room, all queues with that limit are set aside at once, until there is room or it is time
-- to look again. So nothing is done per waiting execution.
--
-- A block is a record whose id is the limit: full {token: {code, until_at, token}} (the tokens without room); queues
-- {queue name: {lane, caps, kind, fair}}; and, of the full token with the latest until_at: code (of the error), reason (for
-- `execution.get`), until_at.
--
-- Needs: Call, Due, Keys, Places, Records, Zsets.

-- How many blocks of a lane Blocks.aside looks at.
local LOOKED_AT = 100
-- How many blocks of a token Blocks.open_token looks at; the others wait for the next look.
local OPENED = 64
local reopen   -- reopen(queue name, place, limit): puts a queue back into its ring (queue/queues.lua)

function Blocks.on_open(f) reopen = f end

local REASONS = { rate_limit_exceeded = 'quota', concurrency_limit_exceeded = 'quota', budget_exceeded = 'budget' }

Places.define('block', function(block)
  local placement = { [Due.key('scheduler', 'block')] = block.until_at }
  for _, place in pairs(block.queues) do placement[Keys.aside(place[1])] = block.until_at end
  return placement
end)

local function sum_up(block)
  local longest
  for _, full in pairs(block.full) do
    if not longest or full.until_at > longest.until_at then longest = full end
  end
  block.code, block.reason, block.until_at = longest.code, REASONS[longest.code], longest.until_at
end

-- Set a queue aside. full: what Limits.take returned; nil to join the existing block.
-- place: {lane, caps, kind, fair}, for `reopen`.
function Blocks.add(limit, full, name, place)
  local block = Records.edit('block', limit) or Records.create('block', limit, { full = {}, queues = {} })
  block.queues[name] = place
  if full then
    block.full[full.token] = full
    redis.call('ZADD', Keys.blocked(full.token), 'NX', Call.now, limit)
    sum_up(block)
  end
end

function Blocks.read(limit) return Records.read('block', limit) end

-- End the block of a limit: put its queues back into their rings.
function Blocks.open(limit)
  local block = Records.edit('block', limit)
  if not block then return end
  for name, place in pairs(block.queues) do reopen(name, place, limit) end
  for token in pairs(block.full) do redis.call('ZREM', Keys.blocked(token), limit) end
  Records.delete('block', limit)
end

-- A token has room for `room` executions again: open the blocks that only this token held back, the oldest first. A
-- block with another full token stays: its executions would take a slot here, be refused there, give the slot back, be
-- woken by that, and so on forever. Return whether further blocks wait for this token.
function Blocks.open_token(token, room)
  local key = Keys.blocked(token)
  local limits = redis.call('ZRANGE', key, 0, OPENED - 1)
  Records.prefetch('block', limits)
  local opened = 0
  for _, limit in ipairs(limits) do
    if opened >= room then break end
    redis.call('ZREM', key, limit)
    local block = Records.edit('block', limit)
    if block then
      block.full[token] = nil
      if next(block.full) then
        sum_up(block)
      else
        Blocks.open(limit)
        opened = opened + 1
      end
    end
  end
  return redis.call('EXISTS', key) == 1
end

-- Return the block that ends first among those that hold back work of this lane, or nil. suits(caps, kind): whether a
-- queue with these capabilities and this kind counts.
function Blocks.aside(lane, suits)
  local limits = redis.call('ZRANGE', Keys.aside(lane), 0, LOOKED_AT - 1)
  Records.prefetch('block', limits)
  for _, limit in ipairs(limits) do
    local block = Records.read('block', limit)
    for name, place in pairs(block and block.queues or {}) do
      if place[1] == lane and suits(place[2], place[3]) and Zsets.exists(name) then return block end
    end
  end
end
