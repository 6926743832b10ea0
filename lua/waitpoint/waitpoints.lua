-- Waitpoints: where signals for an execution arrive. States: pending (nobody waits yet, signals are buffered) → open (the
-- execution is suspended on it) → satisfied; either → closed (the execution moved on without it); pending → expired.
--
-- Fields: execution_id, attempt (that made it), key, state, created_at, expires_at (pending), condition (open), tally, n
-- and bytes (of its signals), matched (names that satisfied it), dead (an operator closed it), lease_id (that was kept: already satisfied), retire_at
-- (ended), rejects (token rejections of this window), namespace, seq. Its signals stand in the hash sg:<id>,
-- {signal_id: [name, source, at, n, payload]}.
--
-- Of an execution: waitpoints {id = key} (those that have not ended), waiting_on (the open one), on_timeout, woken_by
-- (whose signals it was resumed by).
--
-- Needs: Call, Conditions, Due, Errors, Events, Hashes, Keys, Records, States.

-- An ended waitpoint still tells repeated signals from new ones for a while.
local KEEP_MS = 86400000
-- Everything that one waitpoint holds fits into one reply.
local MAX_SIGNALS = 1000
local MAX_BYTES = 4 * 1024 * 1024
local MAX_LIVE = 64

local MOVES = {
  pending = { open = true, satisfied = true, closed = true, expired = true },
  open = { satisfied = true, closed = true },
  satisfied = {}, closed = {}, expired = {},
}
local ENDED = { satisfied = true, closed = true, expired = true }

-- What waitpoints are shown as.
local STATUS = { pending = 'pending', open = 'active', satisfied = 'closed', closed = 'closed', expired = 'closed' }
Waitpoints.STATUSES = { 'pending', 'active', 'closed' }

function Waitpoints.status(w) return STATUS[w.state] end

Records.define('w', function(w)
  local at
  if w.state == 'pending' then at = w.expires_at elseif ENDED[w.state] then at = w.retire_at end
  local placement = at and { [Due.key('signal_router', 'w')] = at } or {}
  if w.execution_id then
    placement[Keys.waitpoints_of(w.execution_id)] = 0
    placement[Keys.waitpoints(w.namespace or 'default', STATUS[w.state])] = 0
  end
  return placement
end)

local function tell(w, name, about) Events.emit('waitpoint', w, name, about) end

-- Moves a waitpoint, and tells of it. about: {event (default: the state), actor, reason, data}.
local function move(w, state, about)
  if not MOVES[w.state][state] then Errors.raise('illegal_transition', { from = w.state, to = state }) end
  about.from, about.to = w.state, state
  w.state = state
  tell(w, about.event or state, about)
end

-- Whether signals are still buffered for somebody.
function Waitpoints.pending(w) return w.state == 'pending' and w.expires_at > Call.now end

-- The pending waitpoint of this execution with this key, or nil.
function Waitpoints.find(x, key)
  for id, its in pairs(x.waitpoints or {}) do
    local w = its == key and Records.read('w', id)
    if w and Waitpoints.pending(w) then return w end
  end
end

-- Refuses one more waitpoint. Errors: invalid_request.
function Waitpoints.check_room(x)
  local n = 0
  for _ in pairs(x.waitpoints or {}) do n = n + 1 end
  if n >= MAX_LIVE then Errors.invalid('waitpoint_key', 'the execution has ' .. n .. ' waitpoints already') end
end

-- A new pending waitpoint of a held execution; `expires_at` may be nil if it is opened at once.
function Waitpoints.create(x, id, key, expires_at, actor)
  local w = Records.create('w', id, {
    execution_id = x.id, attempt = x.attempt_index, key = key, state = 'pending', created_at = Call.now,
    expires_at = expires_at, tally = {}, n = 0, bytes = 0, namespace = x.namespace,
  })
  x.waitpoints = x.waitpoints or {}
  x.waitpoints[id] = key
  tell(w, 'created', { to = 'pending', actor = actor, data = { execution_id = x.id, waitpoint_key = key } })
  return w
end

-- The execution is suspended: it waits here from now on.
function Waitpoints.open(x, w, condition, actor)
  w.condition, w.expires_at = condition, nil
  x.waiting_on = w.id
  move(w, 'open', { event = 'opened', actor = actor })
end

local function finish(x, w, state, about)
  w.condition, w.expires_at = nil, nil
  w.retire_at = Call.now + math.min(x.retention_ms or Call.retention_ms(), KEEP_MS)
  if x.waitpoints then
    x.waitpoints[w.id] = nil
    if not next(x.waitpoints) then x.waitpoints = nil end
  end
  move(w, state, about)
end

-- Its condition is met by the signals of these names: they are what the execution is resumed by.
function Waitpoints.satisfy(x, w, names, actor)
  w.matched = names
  finish(x, w, 'satisfied', { actor = actor, data = { signals = w.n } })
  x.woken_by = w.id
end

-- An operator wants no signals for a pending one: its token is dead from then on.
function Waitpoints.close(w, reason)
  w.dead = true
  finish(Records.edit('x', w.execution_id), w, 'closed', { actor = 'operator', reason = reason })
end

-- Nobody came in time.
function Waitpoints.expire(w)
  finish(Records.edit('x', w.execution_id), w, 'expired', { actor = 'signal-router' })
end

-- An execution that has to do with waitpoints has moved. A pending one outlives a lost
-- lease and another waitpoint's resume, since the attempt goes on; it does not outlive its attempt.
function Waitpoints.execution_moved(x, from, to)
  if from == 'suspended' then
    local w = x.waiting_on and Records.edit('w', x.waiting_on)
    if w and w.state == 'open' then finish(x, w, 'closed', { reason = to }) end
    x.waiting_on, x.on_timeout = nil, nil
  end
  local attempt_over = to == 'retry_wait' or States.TERMINAL[to]
  if attempt_over or to == 'suspended' then x.woken_by = nil end
  if attempt_over and x.waitpoints then
    for id in pairs(x.waitpoints) do
      local w = Records.edit('w', id)
      if w then finish(x, w, 'closed', { reason = to }) end
    end
  end
end

-- Whether this signal has come before.
function Waitpoints.knows(w, signal_id) return Hashes.has(Keys.of('sg', w.id), signal_id) end

-- Keeps a signal. s: {signal_id, name, source, payload}. Errors: payload_too_large (the waitpoint is full).
function Waitpoints.keep(w, s)
  local size = #s.signal_id + #s.name + #(s.source or '') + #(s.payload or '')
  local room = math.max(MAX_BYTES, Call.limits.max_payload_bytes or 0)
  if w.n >= MAX_SIGNALS then
    Errors.raise('payload_too_large', { limit = MAX_SIGNALS, size = w.n + 1 }, 'the waitpoint holds as many signals as it may')
  elseif w.n > 0 and w.bytes + size > room then
    Errors.raise('payload_too_large', { limit = room, size = w.bytes + size }, 'the waitpoint holds as many bytes of signals as it may')
  end
  w.n = w.n + 1
  w.bytes = w.bytes + size
  Conditions.count(w.tally, s.name, s.source)
  Hashes.set(Keys.of('sg', w.id), s.signal_id, pack({ s.name, s.source or false, Call.now, w.n, s.payload or false }))
end

-- What happened to a signal, for the audit trail: never its payload. by: who sent it without a token, and why; or nil.
function Waitpoints.tell_signal(w, event, s, by)
  tell(w, event, { actor = by and by.actor, reason = by and by.reason, data = { signal_id = s.signal_id, name = s.name, source = s.source } })
end

-- The signals that satisfied it, in the order in which they came, after the first `skip` ones, at most `limit`.
-- Returns the items and whether there are more.
function Waitpoints.items(w, skip, limit)
  local names, items = {}, {}
  for _, name in ipairs(w.matched or {}) do names[name] = true end
  local kept = Hashes.all(Keys.of('sg', w.id))
  for i = 1, #kept, 2 do
    local s = unpack_msg(kept[i + 1])
    if names[s[1]] then
      items[#items + 1] = {
        signal_id = kept[i], name = s[1], source = s[2] or nil, at = s[3], n = s[4], payload = s[5] or nil,
      }
    end
  end
  table.sort(items, function(a, b) return a.n < b.n end)
  local page = {}
  for i = skip + 1, math.min(skip + limit, #items) do
    items[i].n = nil
    page[#page + 1] = items[i]
  end
  return page, #items > skip + limit
end

-- Retention is over: it leaves Valkey, unless the execution still lives on its signals.
function Waitpoints.retire(w)
  local x = Records.read('x', w.execution_id)
  if x and x.woken_by == w.id then
    w.retire_at = Call.now + KEEP_MS
    return
  end
  Records.unlink(Keys.of('sg', w.id))
  Records.delete('w', w.id)
end

-- Refused signals: at most this many events per waitpoint and window, so that guessing floods nothing.
local REFUSALS, WINDOW_MS = 10, 10000

-- A signal to this waitpoint was refused: `token_rejected`, or `signal_rejected` for what is none. Ids that do not exist
-- are told of as one waitpoint of this partition: its events are counted here, so another partition's must not go by the
-- same name.
function Waitpoints.refused(id, event, why)
  if not id or not Records.read('w', id) then id = Call.partition() .. '-unknown' end
  local w = Records.read('w', id)
  local refusals = w and w.rejects
  if not refusals or Call.now - refusals.since >= WINDOW_MS then refusals = { since = Call.now, n = 0 } end
  if refusals.n >= REFUSALS then return end
  refusals.n = refusals.n + 1
  w = Records.edit('w', id) or Records.create('w', id, { state = 'none' })
  w.rejects = refusals
  tell(w, event, { reason = why })
end
