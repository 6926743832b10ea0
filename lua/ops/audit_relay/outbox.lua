-- audit-relay: hands out the partition's outbox in order, and trims what JetStream has acknowledged.
-- How far it has come stands in the audit stream itself (services/penstock_audit_relay), so there is no more to do here.
--
-- Needs: Call, Dispatch, Events, Keys.
local ops = Ops.audit_relay

local FIRST_SLICE, MAX_SLICE = 8, 64    -- entries of one XRANGE: what lies beyond `bytes` is read in vain

-- How many entries wait (those that were taken but not trimmed among them), and since when the oldest does.
local function waiting()
  local entries = redis.call('XLEN', Keys.outbox())
  if entries == 0 then return 0, 0 end
  local oldest = redis.call('XRANGE', Keys.outbox(), '-', '+', 'COUNT', 1)[1][1]
  return entries, math.max(0, Call.now - tonumber(string.match(oldest, '^%d+')))
end

-- take: entries after a position, oldest first.
-- args: after (entry id, '0' for the start), limit (entries), bytes (stop when this much is gathered).
-- reply: entries [[entry id, blob]], more (there may be further ones), waiting, age_ms.
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
      -- Blobs are opaque here: msgpack bin 32, which cmsgpack cannot make. Long strings are joined once only.
      parts[#parts + 1] = '\146' .. pack(after) .. '\198' .. struct.pack('>I4', #blob)
      parts[#parts + 1] = blob
    end
  end
  local entries, age = waiting()
  parts[1] = '\132' .. pack('entries') .. Events.array_header(count)
  parts[#parts + 1] = pack('more') .. pack(not ended) .. pack('waiting') .. pack(entries) .. pack('age_ms') .. pack(age)
  return table.concat(parts)
end

-- ack: trims the outbox up to an entry, which is in the audit stream now (or a dead letter).
-- args: upto (entry id). reply: trimmed (entries), waiting, age_ms. errors: none. events: none.
-- Repeating it is harmless.
function ops.ack(a)
  local ms, n = string.match(a.upto, '^(%d+)%-(%d+)$')
  local trimmed = redis.call('XTRIM', Keys.outbox(), 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(n) + 1))
  local entries, age = waiting()
  return { trimmed = trimmed, waiting = entries, age_ms = age }
end

Dispatch.serve('audit_relay')
