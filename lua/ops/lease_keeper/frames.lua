-- The lease-keeper's ops for frames: the output of a worker while it works, kept in order per execution.
--
-- Key fr of an execution is a list of msgpack frames [index, attempt_index, frame_type, at, payload, metadata]; a
-- frame's index is its position in the list, from 1. x.frames holds n (frames), bytes, lease_id (of the last frame) and
-- base (how many frames there were before the first one of that lease).
--
-- Needs: Call, Errors, Executions, Fences, Keys.
local ops = Ops.lease_keeper

local MAX_FRAMES = 10000
local MAX_BYTES = 64 * 1024 * 1024
local PAGE_BYTES = 512 * 1024
local CHUNK = 10

local function check_room(frames, size)
  if frames.n >= MAX_FRAMES then
    Errors.raise('payload_too_large', { field = 'frames', limit = MAX_FRAMES, size = frames.n + 1 },
      'an execution keeps at most ' .. MAX_FRAMES .. ' frames')
  end
  if frames.bytes + size > MAX_BYTES then
    Errors.raise('payload_too_large', { field = 'frames', limit = MAX_BYTES, size = frames.bytes + size },
      'the frames of an execution have at most ' .. MAX_BYTES .. ' bytes together')
  end
end

-- frame: append a frame. args: fence, frame_type, payload, metadata (JSON text or nil), position (this is the lease's
-- nth frame; optional: with it a repeated frame is stored once and answered with `duplicate`).
-- reply: {index, count, at, duplicate}. errors: fence errors, invalid_request, payload_too_large. events: none.
function ops.frame(a)
  local x = Fences.hold(a)
  local frames = x.frames or { n = 0, bytes = 0 }
  local base = frames.lease_id == a.lease_id and frames.base or frames.n
  if a.position then
    local index = base + a.position
    if index <= frames.n then return { index = index, count = frames.n, at = Call.now, duplicate = true } end
    if index > frames.n + 1 then Errors.invalid('position', 'the frame before it has not come') end
  else
    base = base + 1
  end
  local size = #(a.payload or 'null') + #(a.metadata or '')
  check_room(frames, size)
  x.frames = { n = frames.n + 1, bytes = frames.bytes + size, lease_id = a.lease_id, base = base }
  redis.call('RPUSH', Keys.of('fr', x.id), pack({
    x.frames.n, x.attempt_index, a.frame_type, Call.now, a.payload or 'null', a.metadata or 'null',
  }))
  return { index = x.frames.n, count = x.frames.n, at = Call.now }
end

-- frame_read: return a page of frames in order. args: execution_id, attempt_index (only frames of this attempt,
-- optional), after (an index), limit. reply: {items, last (index of the last frame read), more}.
-- errors: execution_not_found.
-- A page ends at its limit, or once it holds half a MiB.
function ops.frame_read(a)
  local x = Executions.read(a.execution_id)
  local n = x.frames and x.frames.n or 0
  local items, bytes, last = {}, 0, a.after
  while last < n and #items < a.limit and bytes < PAGE_BYTES do
    for _, packed in ipairs(redis.call('LRANGE', Keys.of('fr', x.id), last, last + CHUNK - 1)) do
      local frame = unpack_msg(packed)
      last = last + 1
      if not a.attempt_index or frame[2] == a.attempt_index then
        items[#items + 1] = frame
        bytes = bytes + #packed
      end
      if #items == a.limit or bytes >= PAGE_BYTES then break end
    end
  end
  return { items = items, last = last, more = last < n }
end
