-- Idempotency keys: a request with the same key and body gets the first reply again (contract §1).
--
-- Needs: Call, Errors, Keys, Notes, Undo.

-- Changes of this call: key -> packed {digest, reply}, or false when the key is to be deleted.
local kept = Notes.new(function(changes)
  local ttl_ms = Call.limits.idempotency_ttl_ms or 86400000
  for k, packed in pairs(changes) do
    if packed then redis.call('SET', k, packed, 'PX', ttl_ms) else redis.call('UNLINK', k) end
  end
end)

-- Return the first reply, or nil if the key is new. digest: of the request's body. Errors: idempotency_conflict.
function Idempotency.check(verb, namespace, name, digest)
  if not name then return nil end
  local k = Keys.idempotency(verb, namespace, name)
  local packed = kept.of[k]
  if packed == nil then packed = redis.call('GET', k) end
  if not packed then return nil end
  local first = unpack_msg(packed)
  if first.digest ~= digest then Errors.raise('idempotency_conflict', { idempotency_key = name }) end
  return first.reply
end

function Idempotency.drop(verb, namespace, name)
  Undo.put(kept, Keys.idempotency(verb, namespace, name), false)
end

function Idempotency.keep(verb, namespace, name, digest, reply)
  if name then Undo.put(kept, Keys.idempotency(verb, namespace, name), pack({ digest = digest, reply = reply })) end
end

-- Return a creating op's reply: the first reply if the idempotency key is known, else that of make(a), which is kept.
-- Errors: idempotency_conflict, and those of `make`.
function Idempotency.once(verb, namespace, a, make)
  if not a.idempotency_key then return make(a) end
  local first = Idempotency.check(verb, namespace, a.idempotency_key, a.digest)
  if first then
    first.duplicate = true
    return first
  end
  local reply = make(a)
  Idempotency.keep(verb, namespace, a.idempotency_key, a.digest, reply)
  return reply
end
