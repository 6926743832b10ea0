#!lua name=bench
-- The least work of a fenced, audited state machine: read a record, change its state, write it, append an event.
server.register_function('bench_move', function(keys, commands)
  local root, events = keys[1], {}
  for i, packed in ipairs(commands) do
    local command = cmsgpack.unpack(packed)
    local key = root .. ':x:' .. command[1]
    local record = cmsgpack.unpack(server.call('GET', key))
    local from = record.state
    record.state, record.seq = command[2], record.seq + 1
    server.call('SET', key, cmsgpack.pack(record))
    events[i] = {command[1], record.seq, from, record.state}
  end
  server.call('XADD', root .. ':outbox', '*', 'e', cmsgpack.pack(events))
  return #events
end)
