-- The scheduler's ops for quotas. The rules are in limit/limits.lua.
--
-- Needs: Idempotency, Quotas, Records.
local ops = Ops.scheduler

-- quota_create: args: id, max_per_window, window_ms, max_concurrent, namespace, digest, idempotency_key.
-- reply: the quota. errors: idempotency_conflict. events: created.
function ops.quota_create(a)
  local existing = Records.read('quota', a.id)
  if existing then return Quotas.view(existing) end
  return Idempotency.once('quota', a.namespace, a, function() return Quotas.view(Quotas.create(a.id, a)) end)
end

-- quota_get: args: quota_id. errors: quota_not_found.
function ops.quota_get(a) return Quotas.view(Quotas.read(a.quota_id)) end

-- quota_delete: delete a quota; it limits nothing more. args: quota_id. errors: quota_not_found. events: deleted.
function ops.quota_delete(a) return Quotas.delete(a.quota_id) end
