-- Idempotency keys: the same key and body answer the first reply again (contract §1).

local function key(verb, namespace, name) return Call.root .. ':idem:' .. verb .. ':' .. namespace .. ':' .. name end

-- The first reply's packed form, or nil if the key is new. digest: of the request's body.
-- Errors: idempotency_conflict.
function Idempotency.check(verb, namespace, name, digest)
  if not name then return nil end
  local kept = redis.call('GET', key(verb, namespace, name))
  if not kept then return nil end
  kept = unpack_msg(kept)
  if kept.digest ~= digest then Errors.raise('idempotency_conflict', { idempotency_key = name }) end
  return kept.reply
end

function Idempotency.drop(verb, namespace, name) redis.call('UNLINK', key(verb, namespace, name)) end

function Idempotency.keep(verb, namespace, name, digest, reply)
  if not name then return end
  redis.call('SET', key(verb, namespace, name), pack({ digest = digest, reply = reply }), 'PX', Call.limits.idempotency_ttl_ms or 86400000)
end
