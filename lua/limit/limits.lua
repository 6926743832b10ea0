-- Limits: quotas, concurrency keys and budgets. An execution is handed out only when all of its limits have room.
--
-- An execution names its limits in `x.limit`: tokens joined by '&', sorted. A token is
--   q/<quota_id>                    a quota: at most so many per sliding window, and at most so many at once
--   c/<partition>/<n>/<key>         a concurrency key: at most n at once
--   b/<budget_id>                   a budget: nothing more once it is exhausted; it has no slots (limit/budgets.lua)
-- A token's slots and window are kept in the partition that the token names. Where that is not the execution's own
-- partition, the scheduler asks there (`admit`) before it forwards the grant: a two-step reservation that repairs
-- itself. A slot is a sorted-set member whose score is the end of the grant or lease that holds it; renewals raise the
-- score. Each hold has its own slot name, `x.slot` (`<execution>|<unique>`), so that a late message about an earlier
-- hold does no harm. Messages may get lost too: before an expired slot is given away, the partition of its execution is
-- asked about it (`slot_check`).
--
-- Executions with equal limits share a queue; one refusal blocks them all at once (queue/blocks.lua).
--
-- Needs: Blocks, Call, Due, Keys, Places, Records.

-- How many expired slots are checked at once.
local ASKED_ABOUT = 100
-- Even room for one wakes this many blocked limits, since some of their executions may have no worker now. The rest is
-- looked at again after AGAIN_MS, as long as there is room.
local WOKEN = 8
-- The most that one `unblock` message wakes; it also keeps math.huge out of the message.
local MOST_WOKEN = 1000
local AGAIN_MS = 50

local function part(token) return string.match(token, '^%a/(%d+)') end

function Limits.is_local(token) return part(token) == Call.partition() end

function Limits.tokens(limit) return string.gmatch(limit, '[^&]+') end

-- Return the tokens that other partitions keep, or nil when there are none.
function Limits.remote(limit)
  local tokens
  for token in Limits.tokens(limit) do
    if not Limits.is_local(token) then
      tokens = tokens or {}
      tokens[#tokens + 1] = token
    end
  end
  return tokens
end

-- Kinds of tokens without slots: letter -> {room(id), describe(id)}.
local slotless = {}

-- Register a kind of token without slots. room(id) returns nil when there is room, else the error's code and when to
-- look again (ms, absolute); describe(id): see Limits.describe.
function Limits.without_slots(letter, room, describe) slotless[letter] = { room = room, describe = describe } end

local function without_slots(token) return slotless[string.sub(token, 1, 1)] end

-- Return a token's rule: how many at once, how many per window, the window's length (ms). nil: no such limit.
local function rule(token)
  if without_slots(token) then return nil end
  if string.sub(token, 1, 1) == 'c' then return tonumber(string.match(token, '^c/%d+/(%d+)/')) end
  local quota = Records.read('quota', string.sub(token, 3))
  -- A deleted quota limits nothing.
  if not quota then return nil end
  return quota.max_concurrent, quota.max_per_window, quota.window_ms
end

-- Return whether all slots are taken. An expired slot of an execution in this partition is freed at once; another
-- partition's slot only when that partition has confirmed that the hold has ended.
local function crowded(token, concurrent)
  local key = Keys.slots(token)
  if redis.call('ZCARD', key) < concurrent then return false end
  for _, slot in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', Call.now, 'LIMIT', 0, ASKED_ABOUT)) do
    local home = string.match(slot, '^%d+')
    if home == Call.partition() then
      redis.call('ZREM', key, slot)
    else
      Call.hint_item('slot_check', { tonumber(home), token, slot })
    end
  end
  return redis.call('ZCARD', key) >= concurrent
end

-- Return when a window has room again (ms, absolute; nil: it has room now), and how many are in the window.
local function window_opens(token, per_window, window_ms)
  local key = Keys.window(token)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', Call.now - window_ms)
  local n = redis.call('ZCARD', key)
  if n < per_window then return nil, n end
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) + window_ms + 1, n
end

-- Return nil if a token has room for one more; else the error's code and when to look again (ms, absolute).
local function room(token)
  local kind = without_slots(token)
  if kind then return kind.room(string.sub(token, 3)) end
  local concurrent, per_window, window_ms = rule(token)
  -- A freed slot wakes the waiting executions at once; the time is for a holder that died without freeing its slot.
  if concurrent and crowded(token, concurrent) then return 'concurrency_limit_exceeded', Call.now + 2000 end
  local at = per_window and window_opens(token, per_window, window_ms)
  if at then return 'rate_limit_exceeded', at end
  return nil
end

-- Return a token's present usage: how many run, how many are in the window, ms until the window has room.
function Limits.usage(token)
  local at, in_window
  local _, per_window, window_ms = rule(token)
  if per_window then at, in_window = window_opens(token, per_window, window_ms) end
  return redis.call('ZCOUNT', Keys.slots(token), '(' .. Call.now, '+inf'), in_window or 0, at and at - Call.now or 0
end

-- Describe a token's rule and usage, for a caller who asks what holds an execution back.
function Limits.describe(token)
  local kind = without_slots(token)
  if kind then return kind.describe(string.sub(token, 3)) end
  local concurrent, per_window, window_ms = rule(token)
  local running, in_window, wait_ms = Limits.usage(token)
  local quota = string.sub(token, 1, 1) == 'q'
  return {
    kind = quota and 'quota' or 'concurrency_key', id = quota and string.sub(token, 3) or string.match(token, '^c/%d+/%d+/(.*)$'),
    running = running, max_concurrent = concurrent, in_window = in_window, max_per_window = per_window,
    window_ms = window_ms, retry_after_ms = wait_ms,
  }
end

-- Take a slot in every token of `limit` that this partition keeps, or in none of them. expires_at: the grant's end.
-- from: the asking partition, which is told when there is room again. Return nil, or for the token without room {code
-- (of the error), until_at (when to look again), token}.
function Limits.take(limit, slot, expires_at, from)
  for token in Limits.tokens(limit) do
    if Limits.is_local(token) then
      local code, at = room(token)
      if code then
        redis.call('SADD', Keys.waiting(token), from)
        return { code = code, until_at = at, token = token }
      end
    end
  end
  for token in Limits.tokens(limit) do
    if Limits.is_local(token) then
      local concurrent, per_window, window_ms = rule(token)
      if concurrent then redis.call('ZADD', Keys.slots(token), expires_at, slot) end
      if per_window then
        redis.call('ZADD', Keys.window(token), Call.now, slot)
        redis.call('PEXPIRE', Keys.window(token), window_ms + 1000)
      end
    end
  end
  return nil
end

-- Set the end of a slot, when its lease begins or is renewed. A slot that was freed stays free.
function Limits.extend_token(token, slot, expires_at) redis.call('ZADD', Keys.slots(token), 'XX', expires_at, slot) end

-- Return for how many more a token has room (math.huge: no limit).
local function vacancies(token)
  local kind = without_slots(token)
  if kind then return kind.room(string.sub(token, 3)) and 0 or math.huge end
  local concurrent, per_window, window_ms = rule(token)
  local n = math.huge
  if concurrent then n = concurrent - redis.call('ZCARD', Keys.slots(token)) end
  if per_window then
    local _, used = window_opens(token, per_window, window_ms)
    n = math.min(n, per_window - used)
  end
  return n
end

-- A wake record: those woken for a token may not use up its room, so look at the token again at `at`.
Places.define('wake', function(wake) return { [Due.key('scheduler', 'wake')] = wake.at } end)

local function look_again(token)
  local wake = Records.edit('wake', token) or Records.create('wake', token, { at = Call.now + AGAIN_MS })
  wake.at = math.min(wake.at, Call.now + AGAIN_MS)
end

-- Wake blocked limits of this partition: as many as there is room for, at least WOKEN.
local function wake_here(token, n)
  if Blocks.open_token(token, math.max(n, WOKEN)) then
    redis.call('SADD', Keys.waiting(token), Call.partition())
    look_again(token)
  end
end

-- If a token has room, wake the blocked limits that wait for it, in all partitions.
local function tell_waiting(token)
  local n = vacancies(token)
  if n <= 0 then return end
  for _, partition in ipairs(redis.call('SMEMBERS', Keys.waiting(token))) do
    redis.call('SREM', Keys.waiting(token), partition)
    if partition == Call.partition() then
      wake_here(token, n)
    else
      Call.hint_item('unblock', { tonumber(partition), token, math.max(math.min(n, MOST_WOKEN), WOKEN) })
    end
  end
end

-- The due loop's part: look again at a token whose room was perhaps not used up.
function Limits.wake(wake)
  local token = wake.id
  Records.delete('wake', token)
  tell_waiting(token)
end

-- The partition `from` still has blocked limits that wait for this token. Look again soon if there is room.
function Limits.wait(token, from)
  redis.call('SADD', Keys.waiting(token), from)
  if vacancies(token) > 0 then look_again(token) end
end

-- A token may have room again, for another reason than a freed slot.
function Limits.opened(token) tell_waiting(token) end

-- Free a slot. A hold that never began (began = false) leaves the window too. If nothing was freed, wake nobody: there
-- is no more room than before, so others would ask in vain.
function Limits.free_token(token, slot, began)
  local freed = redis.call('ZREM', Keys.slots(token), slot)
  if not began then freed = freed + redis.call('ZREM', Keys.window(token), slot) end
  if freed > 0 then tell_waiting(token) end
end

-- Delete a token's slots and window, and wake those that wait for it.
function Limits.forget(token)
  redis.call('UNLINK', Keys.slots(token), Keys.window(token))
  tell_waiting(token)
end

-- Extend the slots of an execution to its lease's end, in all its tokens. Other partitions are told by a hint.
function Limits.extend(x)
  for token in Limits.tokens(x.limit) do
    if without_slots(token) then
      -- It has no slots.
    elseif Limits.is_local(token) then
      Limits.extend_token(token, x.slot, x.lease_expires_at)
    else
      Call.hint_item('slot', { tonumber(part(token)), token, x.slot, x.lease_expires_at })
    end
  end
end

-- Free the slots of an execution in all its tokens. began: whether it was running. Other partitions are told by a hint.
function Limits.free(x, began)
  for token in Limits.tokens(x.limit) do
    if without_slots(token) then
      -- It has no slots.
    elseif Limits.is_local(token) then
      Limits.free_token(token, x.slot, began)
    else
      Call.hint_item('slot', { tonumber(part(token)), token, x.slot, 0, began })
    end
  end
  x.slot = nil
end

-- Return when the grant or lease that holds this slot ends (ms, absolute); 0 when it has ended.
function Limits.ends(slot)
  local x = Records.read('x', string.match(slot, '^[^|]+'))
  local at = x and x.slot == slot and (x.lease_expires_at or x.grant_expires_at) or 0
  return at > Call.now and at or 0
end
