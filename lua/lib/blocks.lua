-- Blocks: queues whose limits had no room stand aside, all executions of one limit at once, until there is room
-- or it is time to look again. Nothing is done per waiting execution.
--
-- A block is a record whose id is the limit: code (of the error), reason (what `execution.get` says), until, queues
-- {queue name: its place in the ring}.

local REASONS = { rate_limit_exceeded = 'quota', concurrency_limit_exceeded = 'quota', budget_exceeded = 'budget' }

Records.define('block', function(block) return { [Due.key('scheduler', 'block')] = block.until_at } end)

local function of_token_key(token) return Call.root .. ':blocked:' .. token end

-- Puts a queue aside. place: what Queues.reopen needs to put it back.
function Blocks.add(limit, code, until_at, name, place)
  local block = Records.edit('block', limit)
  if not block then
    block = Records.create('block', limit, { queues = {} })
    for token in Limits.tokens(limit) do redis.call('SADD', of_token_key(token), limit) end
  end
  block.code, block.reason, block.until_at = code, REASONS[code], until_at
  block.queues[name] = place
end

function Blocks.read(limit) return Records.read('block', limit) end

-- Lets the queues of this limit back in.
function Blocks.open(limit)
  local block = Records.edit('block', limit)
  if not block then return end
  for name, place in pairs(block.queues) do Queues.reopen(name, place, limit) end
  for token in Limits.tokens(limit) do redis.call('SREM', of_token_key(token), limit) end
  Records.delete('block', limit)
end

-- A token has room again: every limit that needs it may try.
function Blocks.open_token(token)
  for _, limit in ipairs(redis.call('SMEMBERS', of_token_key(token))) do Blocks.open(limit) end
end
