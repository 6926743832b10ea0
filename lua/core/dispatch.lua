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

-- Look at many partitions in one call: run a command that only reads in each of them. args: root, command, root, command …
-- Return the packed replies. When they are longer than LOOKED together, the call has done enough, and the caller asks for
-- the rest again.
local function look(service, header, args)
  local replies, bytes = {}, 0
  for i = 2, #args, 2 do
    if bytes > LOOKED then break end
    Call.begin(args[i], header)
    local reply = answer(Ops[service], unpack_msg(args[i + 1]))
    replies[#replies + 1] = reply
    bytes = bytes + #reply
  end
  return replies
end

local function run(service, keys, args)
  if not pack then
    pack, unpack_msg = cmsgpack.pack, cmsgpack.unpack
    -- Collect when Lua's memory has grown to four times what was in use, not to twice. That is a few MiB.
    collectgarbage('setpause', 400)
  end
  local header = unpack_msg(args[1])
  if #keys == 0 then return look(service, header, args) end
  Call.begin(keys[1], header)
  local ops = Ops[service]
  local replies = { '' }
  local commands, ids = {}, {}
  for i = 2, #args do
    local command = unpack_msg(args[i])
    local a = command[2]
    commands[i] = command
    ids[#ids + 1] = a.execution_id or command[1] == 'create' and a.id or nil
  end
  Records.prefetch('x', ids)
  for i = 2, #args do
    Call.user = commands[i][3]
    replies[i] = answer(ops, commands[i])
  end
  Call.user = nil
  Call.finish()
  -- A call that only reads may see what no replica has yet. With a write of its own at the end, Valkey's WAIT after this
  -- call waits for all that the call has seen (store/acknowledged.py).
  if header.mark then redis.call('SET', Keys.mark(), '') end
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
