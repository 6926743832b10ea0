-- Unique keys: of the executions of a namespace with one key at most one has not ended. Key uq: its id.
--
-- Where a begun one is replaced, its follower has the key and waits for its end: x.followed_by, and x.follows.
--
-- Needs: Call, Errors, Executions, Keys, Payloads, Records, States, Undo.

local held   -- of this call: key -> id, or false: it is free

Call.on_begin(function() held = {} end)

local function key_of(x) return Keys.unique(x.namespace or 'default', x.unique_key) end

local function holder(key)
  local id = held[key]
  if id == nil then id = redis.call('GET', key) end
  return id and Records.read('x', id) or nil
end

-- Whether work on it has not begun.
local function waits(x) return (x.state == 'ready' or x.state == 'scheduled') and (x.attempt_index or 0) == 0 and not x.grant_id end

-- It takes a new input, and another time if it still waits for one.
local function replace(x, spec)
  local x = Records.edit('x', x.id)
  Payloads.release(x, 'input')
  Payloads.hold(x, 'input', spec.input)
  if x.state == 'scheduled' and x.reason == 'time' then
    x.wake_at = spec.run_at and spec.run_at > Call.now and spec.run_at or Call.now
  end
  x.updated_at = Call.now
  Executions.tell(x, 'replaced', { data = { run_at = spec.run_at } })
end

-- What stands in the way of a new execution with this key. Returns the reply of execution.create where one that exists is the
-- answer; else nil, and the execution that has begun, which the new one has to follow.
-- Errors: idempotency_conflict {unique_key, execution_id}.
function Unique.settle(namespace, name, on_conflict, spec)
  local x = holder(Keys.unique(namespace, name))
  if not x or States.TERMINAL[x.state] then return nil end
  local answer = { execution_id = x.id, state = x.state, duplicate = true }
  if on_conflict == 'reject' then
    Errors.raise('idempotency_conflict', { unique_key = name, execution_id = x.id }, 'an execution with this unique_key has not ended')
  elseif on_conflict ~= 'replace' then
    return answer
  elseif waits(x) then
    replace(x, spec)
    return answer
  end
  return nil, x
end

-- A new execution has its key; it follows `begun`, if that is given.
function Unique.hold(x, begun)
  Undo.set(held, key_of(x), x.id)
  if begun then
    x.follows = begun.id
    Records.edit('x', begun.id).followed_by = x.id
  end
end

-- It has ended: its follower begins. If it has its key, that is free, or goes back to the one that it followed.
function Unique.ended(x)
  local key = key_of(x)
  local now = holder(key)
  if now and now.id == x.id then
    local before = x.follows and Records.read('x', x.follows)
    local open = before and not States.TERMINAL[before.state]
    Undo.set(held, key, open and before.id or false)
  end
  local follower = x.followed_by and Records.edit('x', x.followed_by)
  if follower and follower.state == 'scheduled' and follower.reason == 'dependencies' then
    Executions.release(follower, 'scheduler')
  end
end

Call.on_write(function()
  for key, id in pairs(held) do
    if id then redis.call('SET', key, id) else redis.call('UNLINK', key) end
  end
end)
