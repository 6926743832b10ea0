-- One FCALL is one call: a header, then a batch of commands, each [op, args], each answered on its own.
-- Changes are gathered in memory (Records, Zsets, Events) and written once at the end: ten commands that
-- touch one flow write it once.

-- Numbers as they end ids, written out once for all calls.
local NUMERALS = 1000
local numerals = {}

-- Header: skew (ms added to the clock, for tests), nonce (unique text for ids), random (0..1, for jitter),
-- limits (settings that rules need: grant_ttl_ms, retention_ms, idempotency_ttl_ms).
function Call.begin(root, header)
  Call.root = root
  Call.nonce = header.nonce
  Call.random = header.random or 0
  Call.limits = header.limits or {}
  Call.counter = 0
  Call.hints = {}
  local t = redis.call('TIME')
  Call.now = t[1] * 1000 + math.floor(t[2] / 1000) + (header.skew or 0)
  Undo.begin()
  Zsets.begin()
  Hashes.begin()
  Records.begin()
  Events.begin()
  Payloads.begin()
  Queues.begin()
  Due.begin()
  Lists.begin()
  Graph.begin()
  Workers.begin()
  Idempotency.begin()
end

-- How long what has ended stays in Valkey (ms), unless it says otherwise itself.
function Call.retention_ms() return Call.limits.retention_ms or 604800000 end

-- Brings the indexes in Valkey up to date with the records in memory: for ops that read an index.
function Call.settle()
  Records.place()
  Zsets.flush()
end

local function perform(f, ...)
  local before = Records.taken_up()
  local reply, more = f(...)
  Records.place_after(before)
  return reply, more
end

-- Calls f(...), and puts what it changed in its place. Returns true and at most two values, or false and the error: then
-- nothing has changed (lib/undo.lua).
function Call.attempt(f, ...) return Undo.attempt(perform, f, ...) end

-- Something failed that no command is to suffer for: the service logs it.
function Call.fault(what, err)
  Call.hint_item('faults', what .. ': ' .. (type(err) == 'table' and tostring(err.code or err.err) or tostring(err)))
end

-- Writes what the call has gathered. Rules run before that, each in an attempt of its own; in here nothing decides.
function Call.finish()
  Graph.work()
  local done = Call.hints.done
  if done then
    local ok, err = Undo.attempt(Executions.announce, done)
    if not ok then
      Call.hints.done = nil
      Call.fault('announcing ends', err)
    end
  end
  Zsets.flush()
  Lists.flush()
  Lists.forget_lanes()
  Hashes.flush()
  Records.save()
  Payloads.flush()
  Idempotency.flush()
  Workers.flush()
  Events.flush()
end

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

-- Sets hints[name][key] = value, or the lower one of two numbers.
function Call.hint(name, key, value)
  local hint = Call.hints[name]
  if not hint then
    hint = {}
    Call.hints[name] = hint
  end
  local old = hint[key]
  if old == nil or value < old then Undo.set(hint, key, value) end
end

-- Takes back hints[name][key].
function Call.unhint(name, key)
  local hint = Call.hints[name]
  if hint then Undo.set(hint, key, nil) end
end

-- Appends to the list hints[name].
function Call.hint_item(name, item)
  local hint = Call.hints[name]
  if not hint then
    hint = {}
    Call.hints[name] = hint
  end
  Undo.append(hint, item)
end

-- The hints as they are sent: without those that were taken back.
local function packed_hints()
  for name, hint in pairs(Call.hints) do
    if type(hint) == 'table' and not next(hint) then Call.hints[name] = nil end
  end
  return next(Call.hints) and pack(Call.hints) or ''
end

-- Ops that every service has.
local common = {}

-- ping: whether the function answers. args: none. reply: {now}.
function common.ping() return { now = Call.now } end

-- deployment: the number of partitions, fixed by the first service that ever asks. To be asked in partition 0.
-- args: partitions. reply: {partitions, now}. errors: none.
function common.deployment(a)
  local key = Call.root .. ':partitions'
  redis.call('SETNX', key, a.partitions)
  return { partitions = tonumber(redis.call('GET', key)), now = Call.now }
end

local function failure(code, message) return pack({ error = { code = code, message = message } }) end

-- A reply, packed. A string is one that is packed already.
local function reply_of(op, args)
  local reply = op(args)
  return type(reply) == 'string' and reply or pack(reply)
end

local function answer(ops, command)
  local op = ops[command[1]] or common[command[1]]
  if not op then
    return failure('internal', 'no op ' .. tostring(command[1]) .. ': the library is older than the service')
  end
  local full = Memory.refusal(command[1])
  if full then return pack({ error = full }) end
  local ok, reply = Call.attempt(reply_of, op, command[2])
  if ok then return reply end
  if type(reply) == 'table' and reply.code then return pack({ error = reply }) end
  return failure('internal', type(reply) == 'table' and tostring(reply.err) or tostring(reply))
end

function Call.run(service, keys, args)
  pack, unpack_msg = cmsgpack.pack, cmsgpack.unpack
  Call.begin(keys[1], unpack_msg(args[1]))
  local ops = Ops[service]
  local replies = { '' }
  local commands, ids = {}, {}
  for i = 2, #args do
    local command = unpack_msg(args[i])
    commands[i] = command
    ids[#ids + 1] = command[2].execution_id
  end
  Records.prefetch('x', ids)
  for i = 2, #args do replies[i] = answer(ops, commands[i]) end
  Call.finish()
  replies[1] = packed_hints()
  return replies
end

-- Makes a service's ops callable. allow-oom: at maxmemory Valkey would refuse the function as a whole, also what frees
-- memory; lib/memory.lua refuses what makes more.
function Call.serve(service)
  redis.register_function({
    function_name = 'penstock_' .. service,
    callback = function(keys, args) return Call.run(service, keys, args) end,
    flags = { 'allow-oom' },
  })
end
