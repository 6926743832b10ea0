-- Due work: per service and kind of record one sorted set of ids by due time, `due:<service>:<kind>`. Records'
-- placements fill them; a service's DueLoop sleeps until the earliest and then calls its `due` op.
--
-- Needs: Call, Errors, Keys, Records, Undo, Zsets.

-- A handler that fails must not keep the head of the set for ever: its record comes again a minute later.
local POSTPONE_MS = 60000

-- Services as their loops call themselves.
local NAMES = {
  scheduler = 'scheduler', lease_keeper = 'lease-keeper', signal_router = 'signal-router',
  mirror_observer = 'mirror-observer', cancel_reconciler = 'cancel-reconciler',
}

local services      -- due sets that this call came across: key -> service
local outside       -- what handlers of this call leave to their service

Call.on_begin(function() services, outside = {}, {} end)

-- Work that a handler cannot do in here, for it leads into other partitions or needs Python: it goes to the service with
-- the reply of `due`. The handler puts its record's due time off, so that work which got lost is handed out again.
function Due.outside(item) Undo.append(outside, item) end

-- If an id joins a due set, its service's loop must know.
local function joined(key, at) Call.hint('due', services[key], at) end

function Due.key(service, kind)
  local key = Keys.due(service, kind)
  if not services[key] then
    services[key] = NAMES[service]
    Records.watch(key, joined)
  end
  return key
end

local function handle(run, kind, id) return run(Records.edit(kind, id)) end

-- Runs what is due. handlers: {kind = function(record)}, which must re-validate: a pop may be late or double. One that
-- raises changes nothing and does not hinder the others; one that returns a text has failed but keeps its changes.
-- Returns {handled, more, now, next_at, errors, outside}.
function Due.run(service, handlers, limit)
  local handled, more, errors = 0, false, {}
  for kind, run in pairs(handlers) do
    Records.settle()
    local key = Due.key(service, kind)
    local ids = redis.call('ZRANGEBYSCORE', key, '-inf', Call.now, 'LIMIT', 0, limit)
    if #ids == limit then more = true end
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
  local next_at
  for kind in pairs(handlers) do
    local first = redis.call('ZRANGE', Due.key(service, kind), 0, 0, 'WITHSCORES')
    local at = tonumber(first[2] or nil)
    if at and (not next_at or at < next_at) then next_at = at end
  end
  return { handled = handled, more = more, now = Call.now, next_at = next_at,
    errors = #errors > 0 and errors or nil, outside = #outside > 0 and outside or nil }
end
