-- Waitpoints receive the signals for an execution. States: pending (the execution does not wait yet, signals are
-- buffered) → open (the execution is suspended on it) → satisfied; pending, open → closed (the execution moved on);
-- pending → expired.
--
-- Fields: execution_id, attempt (that created it), key, state, created_at, expires_at (pending), condition (open),
-- tally, n and bytes (of its signals), matched (signal names that satisfied it), dead (an operator closed it), lease_id
-- (of the worker that kept its lease, since buffered signals satisfied its suspend at once), entry (key of the journal
-- entry that waits for its signals: journal/waits.lua), awaits {topic, correlation_id} (a published event that is taken as
-- a signal, while it is open), retire_at (ended), rejects
-- (refused signals in this window), namespace, seq. Its signals are in the hash sg:<id>, {signal_id: [name, source, at,
-- n, payload]}.
--
-- Fields of an execution: waitpoints {id = key} (those that have not ended), waiting_on (the open one), on_timeout,
-- woken_by (the waitpoint whose signals resumed the execution).
--
-- Needs: Call, Conditions, Due, Errors, Events, Hashes, Kept, Keys, Places, Records, States.

-- The longest time that an ended waitpoint is kept, to recognize repeated signals.
local KEEP_MS = 86400000
-- Bounds of one waitpoint's signals (they fit into one reply), and of an execution's waitpoints that have not ended.
local MAX_SIGNALS = 1000
local MAX_BYTES = 4 * 1024 * 1024
local MAX_LIVE = 64
local PAGE_BYTES = 512 * 1024
local FIVE, TWO, THREE = '\149', '\130', '\131'   -- msgpack headers: an array of 5 items, maps of 2 and of 3 pairs

local MOVES = {
  pending = { open = true, satisfied = true, closed = true, expired = true },
  open = { satisfied = true, closed = true },
  satisfied = {}, closed = {}, expired = {},
}
local ENDED = { satisfied = true, closed = true, expired = true }

-- State -> public status.
local STATUS = { pending = 'pending', open = 'active', satisfied = 'closed', closed = 'closed', expired = 'closed' }
Waitpoints.STATUSES = { 'pending', 'active', 'closed' }

function Waitpoints.status(w) return STATUS[w.state] end

local listed   -- namespace -> the placement of an open waitpoint, which stands in the list of the active ones alone; kept
Kept.on_root(function() listed = Kept.table('waitpoints') end)

Places.define('w', function(w)
  if w.state == 'open' and w.execution_id and not w.awaits then
    local namespace = w.namespace or 'default'
    return listed[namespace] or Kept.put(listed, namespace, { [Keys.waitpoints(namespace, STATUS.open)] = 0 })
  end
  local at
  if w.state == 'pending' then at = w.expires_at elseif ENDED[w.state] then at = w.retire_at end
  local placement = at and { [Due.key('signal_router', 'w')] = at } or {}
  if w.execution_id then
    if ENDED[w.state] then placement[Keys.waitpoints_of(w.execution_id)] = 0 end   -- the others are in x.waitpoints
    placement[Keys.waitpoints(w.namespace or 'default', STATUS[w.state])] = 0
  end
  if w.awaits and w.state == 'open' then
    placement[Keys.event_waitpoints(w.awaits.topic, w.awaits.correlation_id)] = 0
  end
  return placement
end)

local function tell(w, name, about) Events.emit('waitpoint', w, name, about) end

-- Move a waitpoint and emit the event. about: {event (default: the state), actor, reason, data}.
local function move(w, state, about)
  if not MOVES[w.state][state] then Errors.raise('illegal_transition', { from = w.state, to = state }) end
  about.from, about.to = w.state, state
  w.state = state
  tell(w, about.event or state, about)
end

-- Return whether a waitpoint is pending and not expired, so that it still buffers signals.
function Waitpoints.pending(w) return w.state == 'pending' and w.expires_at > Call.now end

-- Return the pending waitpoint of this execution with this key, or nil.
function Waitpoints.find(x, key)
  for id, its in pairs(x.waitpoints or {}) do
    local w = its == key and Records.read('w', id)
    if w and Waitpoints.pending(w) then return w end
  end
end

-- Refuse one more waitpoint when the execution has MAX_LIVE. Errors: invalid_request.
function Waitpoints.check_room(x)
  local n = 0
  for _ in pairs(x.waitpoints or {}) do n = n + 1 end
  if n >= MAX_LIVE then Errors.invalid('waitpoint_key', 'the execution has ' .. n .. ' waitpoints already') end
end

-- Create a pending waitpoint of a held execution. `expires_at` may be nil if the waitpoint is opened at once.
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

-- The execution is being suspended on this waitpoint: open it. condition: nil for any signal.
function Waitpoints.open(x, w, condition, actor)
  w.condition, w.expires_at = condition, nil
  x.waiting_on = w.id
  move(w, 'open', { event = 'opened', actor = actor })
end

-- An entry of the execution's journal waits for this waitpoint: open it, for as long as the entry waits. event: the
-- {topic, correlation_id} of an event that is to be taken as a signal, or nil.
function Waitpoints.listen(w, condition, key, event, actor)
  w.condition, w.expires_at, w.entry, w.awaits = condition, nil, key, event
  move(w, 'open', { event = 'opened', actor = actor })
end

-- Return whether a waitpoint takes signals although its execution is not suspended on it.
function Waitpoints.takes(w) return Waitpoints.pending(w) or (w.state == 'open' and w.entry ~= nil) end

-- End a waitpoint: move it to a terminal state, drop it from its execution, set when it retires.
local function finish(x, w, state, about)
  w.condition, w.expires_at = nil, nil
  w.retire_at = Call.now + math.min(x.retention_ms or Call.retention_ms(), KEEP_MS)
  if x.waitpoints then
    x.waitpoints[w.id] = nil
    if not next(x.waitpoints) then x.waitpoints = nil end
  end
  move(w, state, about)
end

-- The signals of these names met the condition: end the waitpoint as satisfied. The execution is resumed with them, or a
-- journal entry takes them over.
function Waitpoints.satisfy(x, w, names, actor)
  w.matched = names
  finish(x, w, 'satisfied', { actor = actor, data = { signals = w.n } })
  if not w.entry then x.woken_by = w.id end
end

-- The journal entry that waited for this waitpoint has ended otherwise: close it.
function Waitpoints.leave(x, id, reason)
  local w = Records.edit('w', id)
  if w and not ENDED[w.state] then finish(x, w, 'closed', { reason = reason }) end
end

-- An operator closes a pending waitpoint: its token is invalid from then on.
function Waitpoints.close(w, reason)
  w.dead = true
  finish(Records.edit('x', w.execution_id), w, 'closed', { actor = 'operator', reason = reason })
end

-- A pending waitpoint was not opened in time: end it as expired.
function Waitpoints.expire(w)
  finish(Records.edit('x', w.execution_id), w, 'expired', { actor = 'signal-router' })
end

-- An execution with waitpoints has moved: close those that it leaves behind. A pending waitpoint outlives a lost lease
-- and a resume by another waitpoint, since the attempt continues; it does not outlive its attempt, unless a journal entry
-- waits for it.
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
      if w and not (w.entry and to == 'retry_wait') then finish(x, w, 'closed', { reason = to }) end
    end
  end
end

-- Return whether a signal with this id has come before.
function Waitpoints.knows(w, signal_id) return w.n ~= 0 and Hashes.has(Keys.of('sg', w.id), signal_id) end

-- Store a signal. s: {signal_id, name, source, payload}. Errors: payload_too_large (the waitpoint is full).
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
  Hashes.set(Keys.of('sg', w.id), s.signal_id, FIVE .. pack(s.name, s.source or false, Call.now, w.n, s.payload or false))
end

-- Emit an event about a signal, without its payload. by: {actor, reason} of a signal sent without a token, or nil.
function Waitpoints.tell_signal(w, event, s, by)
  local data = s.source and THREE .. pack('source', s.source, 'signal_id', s.signal_id, 'name', s.name)
    or TWO .. pack('signal_id', s.signal_id, 'name', s.name)
  Events.tell('waitpoint', w, event, by and by.actor, nil, nil, by and by.reason, data)
end

-- Return the kept signals of a waitpoint for which `wanted(name)` holds, in the order of arrival, each {n, signal_id,
-- packed}: a waitpoint may hold megabytes, and a page needs few of the payloads.
local function signals(w, wanted)
  local found = {}
  local kept = Hashes.all(Keys.of('sg', w.id))
  for i = 1, #kept, 2 do
    -- Behind one byte, which says that five values follow: name, source, at, n, and a payload that is not unpacked here.
    local _, name, _, _, n = cmsgpack.unpack_limit(kept[i + 1], 4, 1)
    if wanted(name) then found[#found + 1] = { n, kept[i], kept[i + 1] } end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  return found
end

local function item(signal)
  local s = unpack_msg(signal[3])
  return { signal_id = signal[2], name = s[1], source = s[2] or nil, at = s[3], payload = s[5] or nil }
end

-- Return the names of the signals that satisfied the waitpoint, as a set; empty as long as it is not satisfied.
local function matched(w)
  local names = {}
  for _, name in ipairs(w.matched or {}) do names[name] = true end
  return names
end

-- Return the signals that satisfied the waitpoint, in the order of arrival: after the first `skip`, at most `limit`.
-- Return also whether there are more.
function Waitpoints.items(w, skip, limit)
  local names, page = matched(w), {}
  local found = signals(w, function(name) return names[name] end)
  for i = skip + 1, math.min(skip + limit, #found) do page[#page + 1] = item(found[i]) end
  return page, #found > skip + limit
end

-- Return all signals that the waitpoint keeps, each with `satisfied` (whether it is among those that satisfied the
-- waitpoint). Pages as in `items`, but a page also ends once it holds PAGE_BYTES of payloads.
function Waitpoints.kept(w, skip, limit)
  local names, page, bytes = matched(w), {}, 0
  local found = signals(w, function() return true end)
  for i = skip + 1, math.min(skip + limit, #found) do
    local each = item(found[i])
    each.satisfied = names[each.name] or false
    page[#page + 1] = each
    bytes = bytes + #(each.payload or '')
    if bytes >= PAGE_BYTES then break end
  end
  return page, #found > skip + #page
end

-- Retention is over: delete the waitpoint and its signals. Keep them longer if the execution was resumed with them.
function Waitpoints.retire(w)
  local x = Records.read('x', w.execution_id)
  if x and x.woken_by == w.id then
    w.retire_at = Call.now + KEEP_MS
    return
  end
  Records.unlink(Keys.of('sg', w.id))
  Records.delete('w', w.id)
end

-- At most this many events about refused signals per waitpoint and window, so that guessing tokens floods nothing.
local REFUSALS, WINDOW_MS = 10, 10000

-- Emit an event about a refused signal: `token_rejected`, or `signal_rejected` for an invalid signal. Signals to
-- unknown ids share one waitpoint id per partition, `<partition>-unknown`: events are numbered per entity and
-- partition, so two partitions must not use the same id.
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
