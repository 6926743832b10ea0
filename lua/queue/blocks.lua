-- Blocks: queues whose limits had no room stand aside, all executions of one limit at once, until there is room
-- or it is time to look again. Nothing is done per waiting execution.
--
-- A block is a record whose id is the limit: full {token: {code, until_at, token}}, what had no room; queues {queue name:
-- its place in the ring}; and of what has no room longest: code (of the error), reason (what `execution.get` says), until_at.
--
-- Needs: Call, Due, Keys, Records, Zsets.

-- So many blocks of a lane are looked at for one that holds back work that a worker could do.
local LOOKED_AT = 100
-- So many blocks of a token are looked at for those that may try again: the others wait for the next look.
local OPENED = 64
local reopen   -- reopen(queue name, place, limit): the queues' own part

function Blocks.on_open(f) reopen = f end

local REASONS = { rate_limit_exceeded = 'quota', concurrency_limit_exceeded = 'quota', budget_exceeded = 'budget' }

Records.define('block', function(block)
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

-- Puts a queue aside. full: as of Limits.take; nil to join the block that there is.
-- place: {lane, caps, fair}, which `reopen` needs to put it back.
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

-- Lets the queues of this limit back in.
function Blocks.open(limit)
  local block = Records.edit('block', limit)
  if not block then return end
  for name, place in pairs(block.queues) do reopen(name, place, limit) end
  for token in pairs(block.full) do redis.call('ZREM', Keys.blocked(token), limit) end
  Records.delete('block', limit)
end

-- A token has room for so many again: what only that one held back may try, what waits longest first. Not what another
-- still holds back: it would take the room for a moment, be refused there, and be told of it when it gives it back,
-- forever. Returns whether others still wait.
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

-- The block that ends first of those that hold back work of this lane, or nil. suits(caps): whether it counts.
function Blocks.aside(lane, suits)
  local limits = redis.call('ZRANGE', Keys.aside(lane), 0, LOOKED_AT - 1)
  Records.prefetch('block', limits)
  for _, limit in ipairs(limits) do
    local block = Records.read('block', limit)
    for name, place in pairs(block and block.queues or {}) do
      if place[1] == lane and suits(place[2]) and Zsets.exists(name) then return block end
    end
  end
end
