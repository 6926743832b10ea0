-- Limits: what an execution needs room in before it may be handed out: a quota, a concurrency key, a budget.
--
-- An execution names its limits in `x.limit`: tokens joined by '&', sorted. A token is
--   q/<quota_id>                    a quota: so many per sliding window, so many at once
--   c/<partition>/<n>/<key>         a concurrency key: at most n at once
--   b/<budget_id>                   a budget: nothing more once it is exhausted; nobody holds a slot of it (limit/budgets.lua)
-- A token's books are kept in the partition that it names. Where that is not the execution's own, the scheduler
-- asks there (`admit`) before it forwards the grant: a two-step reservation that repairs itself. A slot is a sorted-set
-- member with the end of the grant or lease that holds it, and renewals push that on. Each hold has a slot of its own
-- name, `x.slot` (`<execution>|<unique>`), so that news of an earlier hold which come late do no harm. News may also
-- get lost: a slot whose time is over is asked after where its execution is (`slot_check`) before it is given to another.
--
-- Executions with equal limits share a queue; one refusal blocks them all at once (queue/blocks.lua).
--
-- Needs: Blocks, Call, Due, Keys, Records.

-- Slots that are asked about in one go.
local ASKED_ABOUT = 100
-- Room for one wakes a few who wait: some have no worker now. Who is left is looked at again after a moment, as long as
-- there is room.
local WOKEN = 8
-- More than that are never woken at once; and no message carries a number without end.
local MOST_WOKEN = 1000
local AGAIN_MS = 50

local function part(token) return string.match(token, '^%a/(%d+)') end

function Limits.is_local(token) return part(token) == Call.partition() end

function Limits.tokens(limit) return string.gmatch(limit, '[^&]+') end

-- The tokens that are kept elsewhere, or nil.
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

-- Kinds of tokens of which nobody holds a slot: letter -> {room(id), describe(id)}.
local slotless = {}

-- room(id) answers nil, or the error that says why there is none and when to look again; describe(id) as Limits.describe.
function Limits.without_slots(letter, room, describe) slotless[letter] = { room = room, describe = describe } end

local function without_slots(token) return slotless[string.sub(token, 1, 1)] end

-- How many at once; nil for no such limit. Second: how many per window, and its length (ms).
local function rule(token)
  if without_slots(token) then return nil end
  if string.sub(token, 1, 1) == 'c' then return tonumber(string.match(token, '^c/%d+/(%d+)/')) end
  local quota = Records.read('quota', string.sub(token, 3))
  -- A deleted quota limits nothing.
  if not quota then return nil end
  return quota.max_concurrent, quota.max_per_window, quota.window_ms
end

-- Whether all slots are taken. Those whose time is over are free, but of another partition's executions only when
-- that has said so.
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

-- When a window has room again, or nil when it has; and how many are in it.
local function window_opens(token, per_window, window_ms)
  local key = Keys.window(token)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', Call.now - window_ms)
  local n = redis.call('ZCARD', key)
  if n < per_window then return nil, n end
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) + window_ms + 1, n
end

-- Whether a token has room for one more; if not, the error that says why and when to look again (ms, absolute).
local function room(token)
  local kind = without_slots(token)
  if kind then return kind.room(string.sub(token, 3)) end
  local concurrent, per_window, window_ms = rule(token)
  -- A freed slot tells at once; the time is for a holder that died.
  if concurrent and crowded(token, concurrent) then return 'concurrency_limit_exceeded', Call.now + 2000 end
  local at = per_window and window_opens(token, per_window, window_ms)
  if at then return 'rate_limit_exceeded', at end
  return nil
end

-- How much of a token is used now: running, in the window, ms until the window has room.
function Limits.usage(token)
  local at, in_window
  local _, per_window, window_ms = rule(token)
  if per_window then at, in_window = window_opens(token, per_window, window_ms) end
  return redis.call('ZCOUNT', Keys.slots(token), '(' .. Call.now, '+inf'), in_window or 0, at and at - Call.now or 0
end

-- How a token stands, for whoever wonders what holds an execution back.
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

-- Takes room in every token of `limit` that is kept here, or in none of them. expires_at: the grant's end.
-- from: the partition that asks, told when a slot frees. Returns nil, or what has no room: {code (of the error),
-- until_at (when to look again), token}.
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

-- Pushes the end of a slot on, as long as its lease lasts. One that was freed stays free.
function Limits.extend_token(token, slot, expires_at) redis.call('ZADD', Keys.slots(token), 'XX', expires_at, slot) end

-- For how many there is room.
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

-- A token whose room may not be used up by those who were woken for it: `at` is the next look.
Records.define('wake', function(wake) return { [Due.key('scheduler', 'wake')] = wake.at } end)

local function look_again(token)
  local wake = Records.edit('wake', token) or Records.create('wake', token, { at = Call.now + AGAIN_MS })
  wake.at = math.min(wake.at, Call.now + AGAIN_MS)
end

-- Wakes those of this partition who wait for room, as many as there is room for, and a few more.
local function wake_here(token, n)
  if Blocks.open_token(token, math.max(n, WOKEN)) then
    redis.call('SADD', Keys.waiting(token), Call.partition())
    look_again(token)
  end
end

-- Wakes whoever waits for room, in whatever partition.
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

-- The look at a token whose room was not used up.
function Limits.wake(wake)
  local token = wake.id
  Records.delete('wake', token)
  tell_waiting(token)
end

-- A partition has more who wait for this token than it was told that there is room for.
function Limits.wait(token, from)
  redis.call('SADD', Keys.waiting(token), from)
  if vacancies(token) > 0 then look_again(token) end
end

-- There may be room again, by other means than a freed slot.
function Limits.opened(token) tell_waiting(token) end

-- Frees a slot; what held it and never began does not count in the window either. Where nothing was freed there is no
-- more room than before: telling would only make others ask in vain.
function Limits.free_token(token, slot, began)
  local freed = redis.call('ZREM', Keys.slots(token), slot)
  if not began then freed = freed + redis.call('ZREM', Keys.window(token), slot) end
  if freed > 0 then tell_waiting(token) end
end

-- Drops a token's books.
function Limits.forget(token)
  redis.call('UNLINK', Keys.slots(token), Keys.window(token))
  tell_waiting(token)
end

-- For an execution that holds room: all its tokens, those kept elsewhere by way of a hint.
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

-- When the hold that has this slot ends; 0 when it has ended.
function Limits.ends(slot)
  local x = Records.read('x', string.match(slot, '^[^|]+'))
  local at = x and x.slot == slot and (x.lease_expires_at or x.grant_expires_at) or 0
  return at > Call.now and at or 0
end
