-- Limits: what an execution needs room in before it may be handed out: a quota, a concurrency key, a budget.
--
-- An execution names its limits in `x.limit`: tokens joined by '&', sorted. A token is
--   q/<quota_id>                    a quota: so many per sliding window, so many at once
--   c/<partition>/<n>/<key>         a concurrency key: at most n at once
--   b/<budget_id>                   a budget: nothing more once it is exhausted; nobody holds a slot of it (lib/budgets.lua)
-- A token's books are kept in the partition that it names. Where that is not the execution's own, the scheduler
-- asks there (`admit`) before it forwards the grant: a two-step reservation that repairs itself, for a slot is a
-- sorted-set member that runs out with the grant or lease that holds it, and renewals push it on.
--
-- Executions with equal limits share a queue; one refusal blocks them all at once (lib/blocks.lua).

-- This call's partition.
function Limits.here() return string.match(Call.root, '{(%d+)}$') end

local function part(token) return string.match(token, '^%a/(%d+)') end

function Limits.is_local(token) return part(token) == Limits.here() end

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

local function slots_key(token) return Call.root .. ':slots:' .. token end
local function window_key(token) return Call.root .. ':window:' .. token end
local function waiting_key(token) return Call.root .. ':waiting:' .. token end

local function is_budget(token) return string.sub(token, 1, 1) == 'b' end

-- How many at once; nil for no such limit. Second: how many per window, and its length (ms).
local function rule(token)
  if is_budget(token) then return nil end
  if string.sub(token, 1, 1) == 'c' then return tonumber(string.match(token, '^c/%d+/(%d+)/')) end
  local quota = Records.read('quota', string.sub(token, 3))
  -- A deleted quota limits nothing.
  if not quota then return nil end
  return quota.max_concurrent, quota.max_per_window, quota.window_ms
end

-- Whether a token has room for one more; if not, the error that says why and when to look again (ms, absolute).
local function room(token, id)
  if is_budget(token) then return Budgets.room(string.sub(token, 3)) end
  local concurrent, per_window, window_ms = rule(token)
  if concurrent then
    redis.call('ZREMRANGEBYSCORE', slots_key(token), '-inf', Call.now)
    if not redis.call('ZSCORE', slots_key(token), id) and redis.call('ZCARD', slots_key(token)) >= concurrent then
      -- A freed slot tells at once; this is for a holder that died.
      return 'concurrency_limit_exceeded', Call.now + 2000
    end
  end
  if per_window then
    redis.call('ZREMRANGEBYSCORE', window_key(token), '-inf', Call.now - window_ms)
    if redis.call('ZCARD', window_key(token)) >= per_window then
      local oldest = redis.call('ZRANGE', window_key(token), 0, 0, 'WITHSCORES')
      return 'rate_limit_exceeded', tonumber(oldest[2]) + window_ms + 1
    end
  end
  return nil
end

-- How much of a token is used now: running, in the window, ms until the window has room.
function Limits.usage(token)
  redis.call('ZREMRANGEBYSCORE', slots_key(token), '-inf', Call.now)
  local _, _, window_ms = rule(token)
  if window_ms then redis.call('ZREMRANGEBYSCORE', window_key(token), '-inf', Call.now - window_ms) end
  local code, at = room(token, '')
  return redis.call('ZCARD', slots_key(token)), redis.call('ZCARD', window_key(token)),
    code == 'rate_limit_exceeded' and at - Call.now or 0
end

-- How a token stands, for whoever wonders what holds an execution back.
function Limits.describe(token)
  if is_budget(token) then
    local id = string.sub(token, 3)
    local b = Records.read('budget', id)
    if not b then return { kind = 'budget', id = id, exhausted = false } end
    local view = Budgets.view(b)
    return { kind = 'budget', id = id, exhausted = view.exhausted, dimensions = view.dimensions, reset_at = view.reset_at }
  end
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
-- from: the partition that asks, told when a slot frees. Returns nil, or the error's code and when to look again.
function Limits.take(limit, id, expires_at, from)
  for token in Limits.tokens(limit) do
    if Limits.is_local(token) then
      local code, at = room(token, id)
      if code then
        redis.call('SADD', waiting_key(token), from)
        return code, at
      end
    end
  end
  for token in Limits.tokens(limit) do
    if Limits.is_local(token) then
      local concurrent, per_window, window_ms = rule(token)
      if concurrent then redis.call('ZADD', slots_key(token), expires_at, id) end
      if per_window then
        redis.call('ZADD', window_key(token), Call.now, id .. ':' .. Call.unique())
        redis.call('PEXPIRE', window_key(token), window_ms + 1000)
      end
    end
  end
  return nil
end

-- Pushes the end of a slot on, as long as its lease lasts.
function Limits.extend_token(token, id, expires_at)
  if rule(token) then redis.call('ZADD', slots_key(token), expires_at, id) end
end

-- Wakes whoever waits for room.
local function tell_waiting(token)
  for _, partition in ipairs(redis.call('SMEMBERS', waiting_key(token))) do
    if partition == Limits.here() then
      Blocks.open_token(token)
    else
      Call.hint_item('unblock', { tonumber(partition), token })
    end
  end
  redis.call('UNLINK', waiting_key(token))
end

-- There may be room again, by other means than a freed slot.
function Limits.opened(token) tell_waiting(token) end

-- Frees a slot. Where there was none there is no more room than before: telling would only make others ask in vain.
function Limits.free_token(token, id)
  if redis.call('ZREM', slots_key(token), id) == 1 then tell_waiting(token) end
end

-- Drops a token's books.
function Limits.forget(token)
  redis.call('UNLINK', slots_key(token), window_key(token))
  tell_waiting(token)
end

-- For an execution: all its tokens, those kept elsewhere by way of a hint.
function Limits.extend(x)
  for token in Limits.tokens(x.limit) do
    if is_budget(token) then
      -- It has no slots.
    elseif Limits.is_local(token) then
      Limits.extend_token(token, x.id, x.lease_expires_at)
    else
      Call.hint_item('slot', { tonumber(part(token)), token, x.id, x.lease_expires_at })
    end
  end
end

function Limits.free(x)
  for token in Limits.tokens(x.limit) do
    if is_budget(token) then
      -- It has no slots.
    elseif Limits.is_local(token) then
      Limits.free_token(token, x.id)
    else
      Call.hint_item('slot', { tonumber(part(token)), token, x.id, 0 })
    end
  end
end
