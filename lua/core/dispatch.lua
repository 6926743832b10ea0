-- One FCALL carries a header and a batch of commands. Each command is [op, args], or [op, args, user] where it is known
-- who asked for it, and gets its own reply. Changes are gathered in memory and written once at the end: ten commands
-- that touch one flow write that flow once.
--
-- Needs: Call, Keys, Memory, Records.

local LOOKED = 8192   -- bytes of replies after which a look at many partitions stops: about 1 ms

-- Ops that every service has.
local common = {}

-- ping: check that the function answers. args: none. reply: {now}.
function common.ping() return { now = Call.now } end

-- deployment: return the number of partitions, which the first service that ever asks fixes. Only asked in partition 0.
-- args: partitions. reply: {partitions, now}. errors: none.
function common.deployment(a)
  local key = Keys.partitions()
  redis.call('SETNX', key, a.partitions)
  return { partitions = tonumber(redis.call('GET', key)), now = Call.now }
end

-- hint_key: return the key that services sign hints with, which the first service that ever asks gives. Only asked in
-- partition 0. args: key. reply: {key, now}. errors: none.
function common.hint_key(a)
  local key = Keys.hint_key()
  redis.call('SETNX', key, a.key)
  return { key = redis.call('GET', key), now = Call.now }
end

local function failure(code, message) return pack({ error = { code = code, message = message } }) end

local function answer(ops, command)
  local op = ops[command[1]] or common[command[1]]
  if not op then
    return failure('internal', 'no op ' .. tostring(command[1]) .. ': the library is older than the service')
  end
  local full = Memory.refusal(command[1])
  if full then return pack({ error = full }) end
  local ok, reply = Records.attempt(op, command[2])
  -- A reply that is a string is packed already.
  if ok then return type(reply) == 'string' and reply or pack(reply) end
  if type(reply) == 'table' and reply.code then return pack({ error = reply }) end
  return failure('internal', type(reply) == 'table' and tostring(reply.err) or tostring(reply))
end

-- Begin a call, and return whether it must be marked. header: the arguments of Call.begin, and then that, packed in a row;
-- or a map of them, as services of release 0.1.0 send it: most of them may be missing there.
local function begin(root, header)
  local skew, nonce, secret, random, limits, mark = unpack_msg(header)
  if type(skew) == 'table' then
    local map = skew
    skew, nonce, secret = map.skew or 0, map.nonce, map.secret or map.nonce
    random, limits, mark = map.random or 0, map.limits, map.mark
  end
  Call.begin(root, skew, nonce, secret, random, limits)
  return mark
end

-- Look at many partitions in one call: run a command that only reads in each of them. args: root, command, root, command …
-- Return the packed replies. When they are longer than LOOKED together, the call has done enough, and the caller asks for
-- the rest again.
local function look(service, args)
  local replies, bytes = {}, 0
  for i = 2, #args, 2 do
    if bytes > LOOKED then break end
    begin(args[i], args[1])
    local reply = answer(Ops[service], unpack_msg(args[i + 1]))
    replies[#replies + 1] = reply
    bytes = bytes + #reply
  end
  return replies
end

-- Load the executions and waitpoints that commands are about.
local function prefetch(commands)
  local executions, waitpoints = {}, {}
  for _, command in ipairs(commands) do
    local a = command[2]
    executions[#executions + 1] = a.execution_id or command[1] == 'create' and a.id or nil
    waitpoints[#waitpoints + 1] = a.waitpoint_id
  end
  Records.prefetch('x', executions)
  Records.prefetch('w', waitpoints)
end

local function run(service, keys, args)
  if not pack then
    pack, unpack_msg = cmsgpack.pack, cmsgpack.unpack
    -- Collect when Lua's memory has grown to four times what was in use, not to twice; and half as fast, since Valkey
    -- begins a round of it every 50 calls, however little there is to collect. That is a few MiB. Slower still is dearer:
    -- the processor's caches hold less of a larger memory.
    collectgarbage('setpause', 400)
    collectgarbage('setstepmul', 100)
  end
  if #keys == 0 then return look(service, args) end
  local mark = begin(keys[1], args[1])
  local ops = Ops[service]
  local replies = { '' }
  local commands = {}
  for i = 2, #args do commands[i - 1] = unpack_msg(args[i]) end
  if #commands > 1 then prefetch(commands) end
  for i, command in ipairs(commands) do
    Call.user = command[3]
    replies[i + 1] = answer(ops, command)
  end
  Call.user = nil
  Call.finish()
  -- A call that only reads may see what no replica has yet. With a write of its own at the end, Valkey's WAIT after this
  -- call waits for all that the call has seen (store/acknowledged.py).
  if mark then redis.call('SET', Keys.mark(), '') end
  replies[1] = Call.packed_hints()
  return replies
end

-- Register the function of a service. allow-oom: without this flag, Valkey at its maxmemory would refuse the whole
-- function, also ops that free memory. Instead core/memory.lua refuses only the ops that need more memory.
-- allow-cross-slot-keys: in a cluster, a look reads all partitions of the server that was asked, and each has a slot of its own.
function Dispatch.serve(service)
  redis.register_function({
    function_name = 'penstock_' .. service,
    callback = function(keys, args) return run(service, keys, args) end,
    flags = { 'allow-oom', 'allow-cross-slot-keys' },
  })
end
