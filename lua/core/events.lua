-- Audit events. Each goes to the partition's outbox (a stream) in the same atomic step as the change that it reports.
--
-- One call appends one entry (one entry per PER_ENTRY events): a msgpack array [head, event, head, event …];
-- head = [entity, namespace, id]; event = [seq, name, at, actor, from, to, reason, data], "" for an absent field.
-- A batch says the same of many records: such a *run* of events is one pair, whose head has an array of ids.
-- The audit relay reads the entries in order and trims those that JetStream has acknowledged.
--
-- Needs: Call, Keys, Undo.

local PER_ENTRY = 400
local RUN_BYTES = 1024                -- longer events form no runs, so that an entry never means much more than its size
local THREE = '\147'                  -- msgpack header of an array of 3 items
local EMPTY = '\160'                  -- the empty text in msgpack
local KNOWN = 1000                    -- size of the caches `known` and `heads`; full ones are emptied when a call begins
local known, count = {}, 0            -- text -> packed text, kept between calls: names, states and workers repeat
local beginnings = {}                 -- seq -> how an event begins: the header of 8 items, the number; kept between calls
local id_heads = {}                   -- length of an id -> its msgpack header, kept between calls
local heads = {}                      -- entity -> namespace -> how its heads begin, kept between calls
local told = { n = 0 }                -- three values of each event of this call: how its head begins, the record's id, the
                                      -- event, packed; n: how many values there are. What is behind them is of no use
local LONG = 100                      -- a list that had so many values is not kept for the next call
local now                             -- the time of this call, packed
local last                            -- the last event of this call that was packed, and what it says
local last_seq, last_name, last_actor, last_from, last_to, last_reason, last_data

Call.on_begin(function()
  if count > KNOWN then known, heads, count = {}, {}, 0 end
  if told[LONG] then told = { n = 0 } else told.n = 0 end
  now, last, last_seq = nil, nil, nil
end)

-- Pack a text, through the cache. cmsgpack makes, hashes and joins a string for each argument: strings are a sixth of a
-- call's cost. So texts that repeat are packed once, and the event is put together by hand.
local function text(value)
  local packed = known[value]
  if not packed then
    packed = pack(value)
    if #packed > 64 then return packed end
    known[value], count = packed, count + 1
  end
  return packed
end

-- Return how the head of an event begins.
local function head_of(entity, namespace)
  local head = THREE .. text(entity) .. text(namespace)
  table_at(heads, entity)[namespace], count = head, count + 1
  return head
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
  local of, n = heads[entity], told.n
  told[n + 1], told[n + 2], told[n + 3] = of and of[namespace] or head_of(entity, namespace), id, event
  Undo.set(told, 'n', n + 3)
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

-- Return the place of the last event of the run that begins with the event at place i, and does not go beyond `last`.
local function run_end(i, last)
  local head, event = told[i], told[i + 2]
  if #event > RUN_BYTES then return i end
  while i < last and told[i + 5] == event and told[i + 3] == head do i = i + 3 end
  return i
end

-- Append an entry with the events from place i to place `last`.
local function append(i, last)
  local parts, n, pairs_told = { '', '', '', '', '' }, 1, 0   -- mostly one event, which makes five parts
  while i <= last do
    local till = run_end(i, last)
    n = n + 1
    parts[n] = till > i and told[i] .. Events.array_header((till - i) / 3 + 1) or told[i]
    for k = i + 1, till + 1, 3 do
      local id = told[k]
      parts[n + 1], parts[n + 2] = id_heads[#id] or id_head(#id), id
      n = n + 2
    end
    n = n + 1
    parts[n] = told[till + 2]
    i, pairs_told = till + 3, pairs_told + 1
  end
  parts[1] = Events.array_header(pairs_told * 2)
  redis.call('XADD', Keys.outbox(), '*', 'e', table.concat(parts))
end

Call.on_write(function()
  local n = told.n
  for i = 1, n, PER_ENTRY * 3 do append(i, math.min(i + PER_ENTRY * 3, n + 1) - 3) end
  if n > 0 then Call.hints.audit = 1 end
end)

-- Return an entry without runs, for a relay of release 0.1. Its events stay as they are, byte for byte: by their bytes a
-- relay knows what the stream has already.
function Events.without_runs(entry)
  local parts, count = { '' }, 0
  local first = string.byte(entry)
  local at = first < 0xdc and 1 or first == 0xdc and 3 or 5   -- behind the entry's own header
  while at >= 0 and at < #entry do
    local event_at, head = cmsgpack.unpack_one(entry, at)
    local till = cmsgpack.unpack_one(entry, event_at)
    local event = string.sub(entry, event_at + 1, till >= 0 and till or #entry)
    local begin, ids = THREE .. pack(head[1]) .. pack(head[2]), head[3]
    for _, id in ipairs(type(ids) == 'table' and ids or { ids }) do
      parts[#parts + 1] = begin .. pack(id) .. event
      count = count + 2
    end
    at = till
  end
  parts[1] = Events.array_header(count)
  return table.concat(parts)
end
