-- Audit events. Each goes to the partition's outbox (a stream) in the same atomic step as the change that it reports.
--
-- One call appends one entry (one entry per PER_ENTRY events): a msgpack array [head, event, head, event …];
-- head = [entity, namespace, id]; event = [seq, name, at, actor, from, to, reason, data], "" for an absent field.
-- The audit relay reads the entries in order and trims those that JetStream has acknowledged.
--
-- Needs: Call, Keys, Undo.

local PER_ENTRY = 400
local THREE = '\147'                  -- msgpack header of an array of 3 items
local EMPTY = '\160'                  -- the empty text in msgpack
local KNOWN = 1000                    -- size of the cache `known`; a full cache is emptied
local known, count = {}, 0            -- text -> packed text, kept between calls: names, states and workers repeat
local beginnings = {}                 -- seq -> how an event begins: the header of 8 items, the number; kept between calls
local id_heads = {}                   -- length of an id -> its msgpack header, kept between calls
local items, now, heads               -- heads: entity -> namespace -> how its items begin
local last                            -- the last event of this call that was packed, and what it says
local last_seq, last_name, last_actor, last_from, last_to, last_reason, last_data

Call.on_begin(function() items, now, heads, last, last_seq = {}, nil, {}, nil, nil end)

-- Pack a text, through the cache. cmsgpack makes, hashes and joins a string for each argument: strings are a sixth of a
-- call's cost. So texts that repeat are packed once, and the event is put together by hand.
local function text(value)
  local packed = known[value]
  if not packed then
    packed = pack(value)
    if #packed > 64 then return packed end
    if count >= KNOWN then known, count = {}, 0 end
    known[value], count = packed, count + 1
  end
  return packed
end

-- Return how an event with this number begins.
local function beginning(seq)
  local found = '\152' .. pack(seq)
  if seq < 100 then beginnings[seq] = found end
  return found
end

-- Return the msgpack header of an id of n bytes.
local function id_head(n)
  if n > 255 then return '\218' .. string.char(math.floor(n / 256), n % 256) end
  local found = n < 32 and string.char(0xa0 + n) or '\217' .. string.char(n)
  id_heads[n] = found
  return found
end

-- Return an event, packed. In a batch, event after event says the same: then it is the last one.
local function packed_event(seq, name, actor, from, to, reason, data)
  if seq == last_seq and name == last_name and actor == last_actor and from == last_from and to == last_to
    and reason == last_reason and data == last_data then
    return last
  end
  now = now or pack(Call.now)
  last = (beginnings[seq] or beginning(seq)) .. text(name) .. now .. (actor and text(actor) or EMPTY)
    .. (from and text(from) or EMPTY) .. (to and text(to) or EMPTY) .. (reason and text(reason) or EMPTY) .. (data or EMPTY)
  last_seq, last_name, last_actor, last_from, last_to, last_reason, last_data = seq, name, actor, from, to, reason, data
  return last
end

-- Emit an event about a change to `record`. `record.seq` numbers the record's events from 1 without a gap. data: a table,
-- or packed. Return the packed event. Where the user who asked is known, the event names them instead of 'operator', or
-- of nobody.
function Events.tell(entity, record, name, actor, from, to, reason, data)
  if Call.user and (not actor or actor == 'operator') then actor = 'user:' .. Call.user end
  local seq, id, namespace = (record.seq or 0) + 1, record.id, record.namespace or 'default'
  record.seq = seq
  if data and type(data) ~= 'string' then data = pack(data) end
  local event = packed_event(seq, name, actor, from, to, reason, data)
  local of = heads[entity] or table_at(heads, entity)
  local head = of[namespace]
  if not head then
    head = THREE .. text(entity) .. text(namespace)
    of[namespace] = head
  end
  Undo.set(items, #items + 1, head .. (id_heads[#id] or id_head(#id)) .. id .. event)
  return event
end

-- The same. about: {from, to, reason, data, actor}, all optional.
function Events.emit(entity, record, name, about)
  return Events.tell(entity, record, name, about.actor, about.from, about.to, about.reason, about.data)
end

-- Return the msgpack header of an array of n items.
function Events.array_header(n)
  if n < 16 then return string.char(0x90 + n) end
  if n < 65536 then return string.char(0xdc, math.floor(n / 256), n % 256) end
  return string.char(0xdd, math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
end

Call.on_write(function()
  for i = 1, #items, PER_ENTRY do
    local j = math.min(i + PER_ENTRY - 1, #items)
    -- The header takes the place of an item that is written already, or of none.
    items[i - 1] = Events.array_header((j - i + 1) * 2)
    redis.call('XADD', Keys.outbox(), '*', 'e', table.concat(items, '', i - 1, j))
  end
  if #items > 0 then Call.hints.audit = 1 end
end)
