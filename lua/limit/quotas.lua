-- Quotas: at most so many executions per sliding window, and so many at once. limit/limits.lua counts the usage.
--
-- Needs: Call, Errors, Events, Limits, Places, Records.

Places.define('quota', function() return {} end)

local function token(quota) return 'q/' .. quota.id end

-- Errors: quota_not_found.
function Quotas.read(id)
  local quota = Records.read('quota', id)
  if not quota then Errors.raise('quota_not_found', { quota_id = id }) end
  return quota
end

function Quotas.create(id, a)
  local quota = Records.create('quota', id, {
    namespace = a.namespace ~= 'default' and a.namespace or nil, max_per_window = a.max_per_window, window_ms = a.window_ms, max_concurrent = a.max_concurrent,
    created_at = Call.now,
  })
  Events.emit('quota', quota, 'created', {
    data = { max_per_window = a.max_per_window, window_ms = a.window_ms, max_concurrent = a.max_concurrent },
  })
  return quota
end

-- Return a quota with its present usage, and how long until its window has room (retry_after_ms; 0: now).
function Quotas.view(quota)
  local running, in_window, wait_ms = Limits.usage(token(quota))
  return {
    quota_id = quota.id, max_per_window = quota.max_per_window, window_ms = quota.window_ms,
    max_concurrent = quota.max_concurrent, created_at = quota.created_at, running = running, in_window = in_window,
    retry_after_ms = wait_ms,
  }
end

function Quotas.delete(id)
  Quotas.read(id)
  local quota = Records.edit('quota', id)
  local view = Quotas.view(quota)
  Events.emit('quota', quota, 'deleted', {})
  Records.delete('quota', id)
  -- A deleted quota limits nothing: wake the executions that waited for it.
  Limits.forget(token({ id = id }))
  return view
end
