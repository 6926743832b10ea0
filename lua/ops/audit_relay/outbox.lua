-- The audit-relay's ops: hand out the partition's outbox in order, and trim what JetStream has acknowledged.
-- The relay reads its position from the audit stream itself (services/penstock_audit_relay); Valkey keeps none.
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

-- take: return the outbox entries after a position, oldest first.
-- args: after (entry id, '0' for the start), limit (entries), bytes (stop once this much is gathered).
-- reply: entries [[entry id, blob]], more (there may be further entries), waiting (untrimmed entries), age_ms.
-- errors: none. events: none.
function ops.take(a)
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
-- args: upto (entry id). reply: trimmed (entries), waiting, age_ms. errors: none. events: none.
-- A repeated ack is harmless.
function ops.ack(a)
  local ms, n = string.match(a.upto, '^(%d+)%-(%d+)$')
  local trimmed = redis.call('XTRIM', Keys.outbox(), 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(n) + 1))
  local entries, age = waiting()
  return { trimmed = trimmed, waiting = entries, age_ms = age }
end

Dispatch.serve('audit_relay')
