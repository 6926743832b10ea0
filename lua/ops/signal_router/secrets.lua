-- The signal-router's ops for the ring of signing keys, in partition 0. Only Python interprets the ring's content.
--
-- Needs: Call, Keys.
local ops = Ops.signal_router

-- secrets: return the ring; store `offer` first if there is none. args: offer (packed ring). reply: {ring}.
-- errors, events: none.
function ops.secrets(a)
  local key = Keys.secrets()
  if a.offer then redis.call('SET', key, a.offer, 'NX') end
  return { ring = redis.call('GET', key) or nil }
end

-- secrets_rotate: replace the ring if it still equals `was`, and tell every router. args: was, ring.
-- reply: {ring} (the current one). errors, events: none.
function ops.secrets_rotate(a)
  local key = Keys.secrets()
  if redis.call('GET', key) == a.was then
    redis.call('SET', key, a.ring)
    Call.hints.ring = 1
  end
  return { ring = redis.call('GET', key) or nil }
end
