-- Idempotency keys: the same key and body answer the first reply again (contract §1).

local kept   -- of this call: key -> {digest, reply}, packed; false: it leaves

function Idempotency.begin() kept = {} end

local function key(verb, namespace, name) return Call.root .. ':idem:' .. verb .. ':' .. namespace .. ':' .. name end

-- The first reply, or nil if the key is new. digest: of the request's body. Errors: idempotency_conflict.
function Idempotency.check(verb, namespace, name, digest)
  if not name then return nil end
  local k = key(verb, namespace, name)
  local packed = kept[k]
  if packed == nil then packed = redis.call('GET', k) end
  if not packed then return nil end
  local first = unpack_msg(packed)
  if first.digest ~= digest then Errors.raise('idempotency_conflict', { idempotency_key = name }) end
  return first.reply
end

function Idempotency.drop(verb, namespace, name)
  Undo.set(kept, key(verb, namespace, name), false)
end

function Idempotency.keep(verb, namespace, name, digest, reply)
  if name then Undo.set(kept, key(verb, namespace, name), pack({ digest = digest, reply = reply })) end
end

function Idempotency.flush()
  local ttl_ms = Call.limits.idempotency_ttl_ms or 86400000
  for k, packed in pairs(kept) do
    if packed then redis.call('SET', k, packed, 'PX', ttl_ms) else redis.call('UNLINK', k) end
  end
end
