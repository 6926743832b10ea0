-- Unique keys: of all executions with one unique key in a namespace, at most one has not ended. Valkey key uq: its id.
--
-- When an execution that has begun is replaced, its follower takes the key and waits for its end: x.followed_by is the
-- follower's id, x.follows the id of the replaced execution.
--
-- Needs: Call, Errors, Executions, Keys, Notes, Payloads, Records, States, Undo.

-- Changes of this call: key -> execution id, or false when the key is free.
local held = Notes.new(function(changes)
  for key, id in pairs(changes) do
    if id then redis.call('SET', key, id) else redis.call('UNLINK', key) end
  end
end)

local function key_of(x) return Keys.unique(x.namespace or 'default', x.unique_key) end

local function holder(key)
  local id = held.of[key]
  if id == nil then id = redis.call('GET', key) end
  return id and Records.read('x', id) or nil
end

-- Return whether the execution has not begun: it had no attempt and has no grant.
local function waits(x) return (x.state == 'ready' or x.state == 'scheduled') and (x.attempt_index or 0) == 0 and not x.grant_id end

-- Replace an execution's input, and its run_at if it still waits for run_at.
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

-- Settle the conflict of a new execution with the present holder of its unique key. Return the reply of
-- execution.create if nothing new is to be created; else nil, and the execution that the new one must follow, if any.
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

-- Give a new execution its unique key. It follows the execution `begun`, if given.
function Unique.hold(x, begun)
  Undo.put(held, key_of(x), x.id)
  if begun then
    x.follows = begun.id
    Records.edit('x', begun.id).followed_by = x.id
  end
end

-- Another execution goes on in place of x, which has not ended yet: it holds the key if x does, and who follows x follows
-- it from now on.
function Unique.pass(x, heir)
  local now = holder(key_of(x))
  if now and now.id == x.id then Undo.put(held, key_of(x), heir.id) end
  local follower = x.followed_by and Records.edit('x', x.followed_by)
  if follower then follower.follows, heir.followed_by, x.followed_by = heir.id, follower.id, nil end
end

-- An execution with a unique key has ended: release its follower. If it holds the key, free the key, or give it back to
-- the execution that it follows, if that has not ended.
function Unique.ended(x)
  local key = key_of(x)
  local now = holder(key)
  if now and now.id == x.id then
    local before = x.follows and Records.read('x', x.follows)
    local open = before and not States.TERMINAL[before.state]
    Undo.put(held, key, open and before.id or false)
  end
  local follower = x.followed_by and Records.edit('x', x.followed_by)
  if follower and follower.state == 'scheduled' and follower.reason == 'dependencies' then
    Executions.release(follower, 'scheduler')
  end
end
