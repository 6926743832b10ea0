-- The signal-router's ops about the ring of signing keys, in partition 0. What is in it, Python knows.
--
-- Needs: Call, Keys.
local ops = Ops.signal_router

-- secrets: the ring, made of `offer` if there is none yet. args: offer (packed ring). reply: {ring}. errors, events: none.
function ops.secrets(a)
  local key = Keys.secrets()
  if a.offer then redis.call('SET', key, a.offer, 'NX') end
  return { ring = redis.call('GET', key) or nil }
end

-- secrets_rotate: another ring, if it still is what the caller knows; every router is told. args: was, ring. reply: {ring}: as it is
-- then. errors, events: none.
function ops.secrets_rotate(a)
  local key = Keys.secrets()
  if redis.call('GET', key) == a.was then
    redis.call('SET', key, a.ring)
    Call.hints.ring = 1
  end
  return { ring = redis.call('GET', key) or nil }
end
