-- The audit-relay's ops: hand out the partition's outbox in order, and trim what JetStream has acknowledged.
-- The relay reads its position from the audit stream itself (services/penstock_audit_relay). Valkey remembers only what
-- was trimmed (`relayed`): so that a Valkey which has lost its newest changes, as a replica that lagged and was promoted
-- has, is told apart from one that has them (`knows`).
--
-- Needs: Call, Dispatch, Events, Keys.
local ops = Ops.audit_relay

local FIRST_SLICE, MAX_SLICE = 8, 64    -- entries per XRANGE: small at first, as entries read past `bytes` are wasted

-- Return the number of untrimmed entries in the outbox (taken ones included) and the age of the oldest (ms).
local function waiting()
  local entries = redis.call('XLEN', Keys.outbox())
  if entries == 0 then return 0, 0 end
  local oldest = redis.call('XRANGE', Keys.outbox(), '-', '+', 'COUNT', 1)[1][1]
  return entries, math.max(0, Call.now - tonumber(string.match(oldest, '^%d+')))
end

local NOTHING = '0-0'   -- the position before the first entry

local function numbers(id)
  local ms, n = string.match(id, '^(%d+)%-?(%d*)$')
  return tonumber(ms), tonumber(n) or 0
end

local function before(id, other)
  local ms, n = numbers(id)
  local other_ms, other_n = numbers(other)
  return ms < other_ms or (ms == other_ms and n < other_n)
end

-- Return the last entry that was trimmed, or nil.
local function relayed() return redis.call('GET', Keys.relayed()) or nil end

-- Return whether this Valkey has had the entry: it is in the outbox, or it was trimmed. Ids alone do not tell: an id is a
-- time, so that new entries have higher ids than lost ones.
local function knows(id)
  if not before(NOTHING, id) then return true end
  local last = relayed()
  if last then
    if not before(last, id) then return true end
  elseif redis.call('EXISTS', Keys.outbox()) == 1 then
    -- An older library trimmed without keeping `relayed`. A Valkey that began anew has trimmed nothing.
    local info = redis.call('XINFO', 'STREAM', Keys.outbox())
    local of = {}
    for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
    if of['entries-added'] > of.length and not before(of['last-generated-id'], id) then return true end
  end
  return #redis.call('XRANGE', Keys.outbox(), id, id) > 0
end

-- take: return the outbox entries after a position, oldest first.
-- args: after (entry id, '0' for the start), limit (entries), bytes (stop once this much is gathered), runs (true: the
-- caller knows runs of events, see core/events.lua).
-- reply: entries [[entry id, blob]], more (there may be further entries), waiting (untrimmed entries), age_ms. When this
-- Valkey does not know `after`: no entries, but behind (the last entry that it had trimmed) and now.
-- errors: none. events: none.
function ops.take(a)
  if not knows(a.after) then
    local entries, age = waiting()
    return { more = false, waiting = entries, age_ms = age, behind = relayed() or NOTHING, now = Call.now }
  end
  local parts, count, bytes, after, ended, slice = { '' }, 0, 0, a.after, false, FIRST_SLICE
  while not ended and count < a.limit and bytes < a.bytes do
    slice = math.min(slice, a.limit - count)
    local found = redis.call('XRANGE', Keys.outbox(), '(' .. after, '+', 'COUNT', slice)
    ended = #found < slice
    slice = math.min(slice * 2, MAX_SLICE)
    for _, entry in ipairs(found) do
      if bytes >= a.bytes then
        ended = false
        break
      end
      local blob = entry[2][2]
      if not a.runs then blob = Events.without_runs(blob) end
      after = entry[1]
      count = count + 1
      bytes = bytes + #blob
      -- A blob is opaque here and goes out as msgpack bin 32, which cmsgpack cannot encode: so the header is written by
      -- hand. Parts are joined only once, at the end, because blobs are long.
      parts[#parts + 1] = '\146' .. pack(after) .. '\198' .. struct.pack('>I4', #blob)
      parts[#parts + 1] = blob
    end
  end
  local entries, age = waiting()
  parts[1] = '\132' .. pack('entries') .. Events.array_header(count)
  parts[#parts + 1] = pack('more') .. pack(not ended) .. pack('waiting') .. pack(entries) .. pack('age_ms') .. pack(age)
  return table.concat(parts)
end

-- ack: trim the outbox up to and including an entry that is now in the audit stream (or is a dead letter).
-- args: upto (entry id). reply: trimmed (entries), waiting, age_ms, unknown (true: it is no entry of this Valkey, which
-- keeps everything). errors: none. events: none. A repeated ack is harmless.
function ops.ack(a)
  if not knows(a.upto) then
    local entries, age = waiting()
    return { trimmed = 0, waiting = entries, age_ms = age, unknown = true }
  end
  local last = relayed()
  if not last or before(last, a.upto) then redis.call('SET', Keys.relayed(), a.upto) end
  local ms, n = string.match(a.upto, '^(%d+)%-(%d+)$')
  local trimmed = redis.call('XTRIM', Keys.outbox(), 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(n) + 1))
  local entries, age = waiting()
  return { trimmed = trimmed, waiting = entries, age_ms = age }
end

Dispatch.serve('audit_relay')
