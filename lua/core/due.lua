-- Due work. Each service has one sorted set per kind of record, `due:<service>:<kind>`: record ids by due time (ms).
-- Placements of records fill these sets. A service's DueLoop sleeps until the earliest time, then calls the `due` op;
-- where a hint may be lost it asks all partitions for that time, with `next_due`.
--
-- Needs: Call, Errors, Kept, Keys, Notes, Places, Records, Undo, Zsets.

-- A record whose handler failed is due again after this time, so that it does not block the head of the set.
local POSTPONE_MS = 60000
-- When more is due than a call handles, it also handles so many of those that became due last. So a hundred thousand
-- that are due at one instant do not keep all others waiting that become due while they are handled.
local FRESH = 10

-- Service name in Lua -> name of the service in `due` hints.
local NAMES = {
  scheduler = 'scheduler', lease_keeper = 'lease-keeper', signal_router = 'signal-router',
  mirror_observer = 'mirror-observer', cancel_reconciler = 'cancel-reconciler',
}

local handlers = {} -- service -> kind -> function(record)
local keys          -- due sets, kept between calls: service -> kind -> key
local services      -- the same: key -> service
local outside = Notes.new()   -- work items that handlers of this call hand to their service

Kept.on_root(function() keys, services = Kept.table('due'), Kept.table('services') end)

-- Hand a work item to the service, in the reply of `due`: work that needs another partition or Python. The handler must
-- postpone its record's due time, so that a lost work item is handed out again.
function Due.outside(item) Undo.append(Notes.table(outside), item) end

-- Tell the service's due loop that an id joined its due set.
local function joined(key, at) Call.hint('due', services[key], at) end

function Due.key(service, kind)
  local of = keys[service] or table_at(keys, service)
  local key = of[kind]
  if not key then
    key = Keys.due(service, kind)
    Kept.put(services, key, NAMES[service])
    Places.watch(key, joined)
    Kept.put(of, kind, key)
  end
  return key
end

-- Return the earliest due time of a service, or nil.
local function earliest(service)
  local first
  for kind in pairs(handlers[service]) do
    local at = tonumber(redis.call('ZRANGE', Due.key(service, kind), 0, 0, 'WITHSCORES')[2] or nil)
    if at and (not first or at < first) then first = at end
  end
  return first
end

-- Say what a service does with the due records of each kind. of: {kind = function(record)}. A handler must check its record
-- again: it may run late or twice. A handler that raises changes nothing and does not stop the others; a handler that
-- returns a text has failed but keeps its changes. The service gets the op next_due: return when something is due next.
-- args: none. reply: {now, next_at}. errors: none.
function Due.serve(service, of)
  handlers[service] = of
  Ops[service].next_due = function() return { now = Call.now, next_at = earliest(service) } end
end

local function handle(run, kind, id) return run(Records.edit(kind, id)) end

-- Return the ids that a call handles of those that are due, and whether there may be more: the first, and some of the last.
local function due_now(key, limit)
  local ids = redis.call('ZRANGEBYSCORE', key, '-inf', Call.now, 'LIMIT', 0, limit)
  if #ids < limit then return ids, false end
  local known = {}
  for _, id in ipairs(ids) do known[id] = true end
  for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', key, Call.now, '-inf', 'LIMIT', 0, FRESH)) do
    if not known[id] then ids[#ids + 1] = id end
  end
  return ids, true
end

-- Handle at most `limit` due records per kind, and FRESH more. Return {handled, more, now, next_at, errors, outside}.
function Due.run(service, limit)
  local handled, more, errors = 0, false, {}
  for kind, run in pairs(handlers[service]) do
    Records.settle()
    local key = Due.key(service, kind)
    local ids, full = due_now(key, limit)
    if full then more = true end
    for _, id in ipairs(ids) do
      if Records.read(kind, id) then
        local _, failure = Records.attempt(handle, run, kind, id)
        if failure then errors[#errors + 1] = kind .. ' ' .. id .. ': ' .. Errors.text(failure) end
      else
        Zsets.remove(key, id)
      end
      handled = handled + 1
    end
    Records.settle()
    for _, id in ipairs(ids) do
      local at = tonumber(redis.call('ZSCORE', key, id) or nil)
      if at and at < Call.now then redis.call('ZADD', key, Call.now + POSTPONE_MS, id) end
      if at == Call.now then more = true end
    end
  end
  return { handled = handled, more = more, now = Call.now, next_at = earliest(service),
    errors = #errors > 0 and errors or nil, outside = outside.of[1] and outside.of or nil }
end
