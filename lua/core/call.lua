-- The state of one FCALL (a *call*): its clock, settings and hints. A call carries a batch of commands
-- (core/dispatch.lua). Modules that keep state for one call have notes (core/notes.lua), or register begin, end and write
-- functions here.
--
-- Needs: Kept, Notes.

-- The suffixes of ids. The first NUMERALS of them are built once and kept between calls.
local NUMERALS = 1000
local numerals = {}
local told_limits   -- the limits that the last call told
Call.limits = {}
local begins, ends, writes = {}, {}, {}

-- Call f() at the beginning of every call.
function Call.on_begin(f) begins[#begins + 1] = f end
-- Call f() after the last command; f may still change records.
function Call.on_end(f) ends[#ends + 1] = f end
-- Call f() after all on_end functions and before the notes are written, to write other changes to Valkey.
function Call.on_write(f) writes[#writes + 1] = f end

local secrets = Notes.new()   -- holder -> hash

-- Return the limits that a header tells: as JSON, which most calls tell alike; or as a map, by services of release 0.1.0.
local function limits_of(told) return type(told) == 'string' and cjson.decode(told) or told or {} end

-- Begin a call. skew: ms added to the clock, for tests; nonce: unique text for ids; secret: random text; random: 0..1, for
-- jitter; limits: settings of the service (grant_ttl_ms, retention_ms, idempotency_ttl_ms, progress_events_ms, event_ttl_ms …).
function Call.begin(root, skew, nonce, secret, random, limits)
  Call.root = root
  Call.nonce, Call.secret, Call.random = nonce, secret, random
  if limits ~= told_limits then Call.limits, told_limits = limits_of(limits), limits end
  Call.user = nil    -- who asked for the command that runs now
  Call.counter = 0
  Kept.begin(root)
  Notes.begin()
  Call.hints = { audit = nil, due = nil, ready = nil }   -- with room for those that are usual
  local t = redis.call('TIME')
  Call.now = t[1] * 1000 + math.floor(t[2] / 1000) + skew
  for i = 1, #begins do begins[i]() end
end

function Call.finish()
  for i = 1, #ends do ends[i]() end
  for i = 1, #writes do writes[i]() end
  Notes.write()
end

-- Lua's unpack() fails above about 8,000 values.
local CHUNK = 2000

-- Run a Valkey command with any number of arguments, in chunks of an even length (pairs stay together).
-- key: the first argument of each chunk, or nil.
function Call.bulk(command, list, key)
  local n = #list
  if n == 0 then return end
  if n <= CHUNK then
    if key then redis.call(command, key, unpack(list)) else redis.call(command, unpack(list)) end
    return
  end
  for i = 1, n, CHUNK do
    local last = math.min(i + CHUNK - 1, n)
    if key then redis.call(command, key, unpack(list, i, last)) else redis.call(command, unpack(list, i, last)) end
  end
end

-- Return how long an ended record stays in Valkey (ms), unless the record has a retention of its own.
function Call.retention_ms() return Call.limits.retention_ms or 604800000 end

-- Return the number of this call's partition, as text.
function Call.partition() return string.match(Call.root, '{(%d+)}$') end

-- Return the next of the suffixes '-1', '-2', … of this call's ids.
local function numeral()
  local n = Call.counter + 1
  Call.counter = n
  local text = numerals[n]
  if not text then
    text = '-' .. n
    if n <= NUMERALS then numerals[n] = text end
  end
  return text
end

-- Return a text that is unique among all calls, for ids that everybody may see.
function Call.unique() return Call.nonce .. numeral() end

-- Return a text that is unique among all calls, for the ids of leases and grants: who knows one may act for its holder,
-- so nobody but the holder can guess it (96 bits). A hash is dear, so one call makes one for each holder.
function Call.secret_of(holder)
  local hash = secrets.of[holder]
  if not hash then
    hash = string.sub(redis.sha1hex(Call.secret .. holder), 1, 24)
    Notes.table(secrets)[holder] = hash
  end
  return hash .. numeral()
end
