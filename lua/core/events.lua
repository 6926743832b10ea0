-- Audit events. Each goes to the partition's outbox (a stream) in the same atomic step as the change that it reports.
--
-- One call appends one entry (one entry per PER_ENTRY events): a msgpack array [head, event, head, event …];
-- head = [entity, namespace, id]; event = [seq, name, at, actor, from, to, reason, data], "" for an absent field.
-- The audit relay reads the entries in order and trims those that JetStream has acknowledged.
--
-- Needs: Call, Keys, Undo.

local PER_ENTRY = 400
local THREE, EIGHT = '\147', '\152'   -- msgpack headers of arrays of 3 and of 8 items
local EMPTY = '\160'                  -- the empty text in msgpack
local KNOWN = 1000                    -- size of the cache `known`; a full cache is emptied
local known, count = {}, 0            -- text -> packed text, kept between calls: names, states and workers repeat
local items, now

Call.on_begin(function() items, now = {}, nil end)

-- Pack a text, through the cache. cmsgpack makes, hashes and joins a string for each argument: strings are a sixth of a
-- call's cost. So texts that repeat are packed once, and the event is put together by hand.
local function text(value)
  if not value or value == '' then return EMPTY end
  local packed = known[value]
  if not packed then
    packed = pack(value)
    if #packed > 64 then return packed end
    if count >= KNOWN then known, count = {}, 0 end
    known[value], count = packed, count + 1
  end
  return packed
end

-- Pack an id. Ids do not repeat, so they are not cached.
local function fresh(id)
  if #id < 32 or #id > 255 then return pack(id) end
  return '\217' .. string.char(#id) .. id
end

local function whole(n) return n < 128 and string.char(n) or pack(n) end

-- Emit an event about a change to `record`. `record.seq` numbers the record's events from 1 without a gap.
-- about: {from, to, reason, data, actor}, all optional. Return the packed event. Where the user who asked is known, the
-- event names them instead of 'operator', or of nobody.
function Events.emit(entity, record, name, about)
  local actor = about.actor
  if Call.user and (not actor or actor == 'operator') then actor = 'user:' .. Call.user end
  record.seq = (record.seq or 0) + 1
  now = now or pack(Call.now)
  local event = EIGHT .. whole(record.seq) .. text(name) .. now .. text(actor) .. text(about.from) .. text(about.to)
    .. text(about.reason) .. (about.data and pack(about.data) or EMPTY)
  Undo.append(items, THREE .. text(entity) .. text(record.namespace or 'default') .. fresh(record.id) .. event)
  return event
end

-- Return the msgpack header of an array of n items.
function Events.array_header(n)
  if n < 16 then return string.char(0x90 + n) end
  if n < 65536 then return string.char(0xdc, math.floor(n / 256), n % 256) end
  return string.char(0xdd, math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
end

Call.on_write(function()
  for i = 1, #items, PER_ENTRY do
    local last = math.min(i + PER_ENTRY - 1, #items)
    local blob = Events.array_header((last - i + 1) * 2) .. table.concat(items, '', i, last)
    redis.call('XADD', Keys.outbox(), '*', 'e', blob)
  end
  if #items > 0 then Call.hints.audit = 1 end
end)
