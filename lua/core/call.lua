-- One FCALL: its time, its settings, and who takes part in it. A call carries a
-- batch of commands (core/dispatch.lua). Rooms that keep something for its length say here when they begin and write.
--
-- Needs: nothing.

-- Numbers as they end ids, written out once for all calls.
local NUMERALS = 1000
local numerals = {}
local begins, ends, writes = {}, {}, {}

-- f() is called when a call begins.
function Call.on_begin(f) begins[#begins + 1] = f end
-- f() is called behind the last command, and may still decide something.
function Call.on_end(f) ends[#ends + 1] = f end
-- f() is called after that, to write what was gathered.
function Call.on_write(f) writes[#writes + 1] = f end

-- Header: skew (ms added to the clock, for tests), nonce (unique text for ids), random (0..1, for jitter),
-- limits (settings that rules need: grant_ttl_ms, retention_ms, idempotency_ttl_ms, progress_events_ms, event_ttl_ms).
function Call.begin(root, header)
  Call.root = root
  Call.nonce = header.nonce
  Call.random = header.random or 0
  Call.limits = header.limits or {}
  Call.counter = 0
  Call.hints = {}
  local t = redis.call('TIME')
  Call.now = t[1] * 1000 + math.floor(t[2] / 1000) + (header.skew or 0)
  for _, f in ipairs(begins) do f() end
end

function Call.finish()
  for _, f in ipairs(ends) do f() end
  for _, f in ipairs(writes) do f() end
end

-- Lua's unpack() fails above about 8,000 values.
local CHUNK = 2000

-- Calls a command with arguments without number, in chunks of an even length. key: what stands before each chunk, or nil.
function Call.bulk(command, list, key)
  for i = 1, #list, CHUNK do
    local last = math.min(i + CHUNK - 1, #list)
    if key then redis.call(command, key, unpack(list, i, last)) else redis.call(command, unpack(list, i, last)) end
  end
end

-- How long what has ended stays in Valkey (ms), unless it says otherwise itself.
function Call.retention_ms() return Call.limits.retention_ms or 604800000 end

-- This call's partition, as text.
function Call.partition() return string.match(Call.root, '{(%d+)}$') end

-- A text that no other call makes: lease, attempt and grant ids.
function Call.unique()
  local n = Call.counter + 1
  Call.counter = n
  local numeral = numerals[n]
  if not numeral then
    numeral = '-' .. n
    if n <= NUMERALS then numerals[n] = numeral end
  end
  return Call.nonce .. numeral
end
