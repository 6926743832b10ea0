-- Who waits for the end of an execution (execution.wait and .execute), and what they are told.
--
-- Callers are remembered in this library's memory and in no key: a caller that asks changes nothing, so that nothing has to
-- reach the disk for it. A restart of Valkey, a failover or another version of the library forgets them; so does a call when
-- there are very many. Then nobody is told, as if a hint were lost, and the scheduler at which the caller waits looks again.
--
-- Needs: Call, Undo.

-- The most views in one hint, since a hint must fit into a NATS message. Of further executions only the id is told.
local ANNOUNCED = 64
-- Executions in one generation. When the younger one is full, the older one is forgotten.
local MOST = 50000
-- Reply subjects remembered of one execution. A caller asks anew every few seconds, each time with another subject.
local REPLIES = 8

-- Id of an execution -> {replies (subjects), again (true: a scheduler has to look again)}.
local young, old, count = {}, {}, 0

local function awaited(id) return young[id] or old[id] end

-- Remember a caller. reply: the subject that he expects the execution's record on; nil: a scheduler has to look again.
function Executions.await(id, reply)
  local callers = awaited(id) or { replies = {} }
  if not young[id] then
    if count >= MOST then young, old, count = {}, young, 0 end
    young[id] = callers
    count = count + 1
  end
  if reply then remember(callers.replies, reply, REPLIES) else callers.again = true end
end

-- Note that an execution has ended, if somebody waits for that.
function Executions.ended(x)
  if awaited(x.id) then Call.hint_item('ended', x) end
end

-- Turn ended executions into the hints `ended` (the record, and the subjects that expect it) and `done` (the id: schedulers
-- look again; also where a payload is too large for a hint).
local function announce(ended)
  local answers = {}
  for _, x in ipairs(ended) do
    local callers = awaited(x.id)
    local small = #answers < ANNOUNCED and x.input ~= true and x.result ~= true
    if small and callers.replies[1] then answers[#answers + 1] = { Executions.view(x), callers.replies } end
    if callers.again or not small then Call.hint_item('done', x.id) end
    young[x.id], old[x.id] = nil, nil
  end
  Call.hints.ended = answers
end

Call.on_end(function()
  local ended = Call.hints.ended
  if not ended then return end
  local ok, err = Undo.attempt(announce, ended)
  if not ok then
    Call.hints.ended = nil
    Call.fault('announcing ends', err)
  end
end)
