-- Lines: the queues of one fairness key in one ring, as a search reads them (queue/turns.lua). What a search may read is
-- bounded: each read of a ring or queue is counted.
--
-- Needs: Blocks, Keys, Queues.

local looks = 0   -- how many reads the present search may still make

-- Begin a search that may make `n` reads.
function Lines.allow(n) looks = n end
-- Count `n` reads (default 1).
function Lines.look(n) looks = looks - (n or 1) end
-- Return whether the reads have run out.
function Lines.spent() return looks <= 0 end

-- Return a line: a queue that is read `chunk` ids at a time.
local function new_line(name, chunk)
  return { name = name, chunk = chunk, read = 0, next = 1, found = {} }
end

-- Return the id at the head of a line and its score, or nil when the line is empty.
function Lines.head(line)
  if line.next > #line.found then
    if line.read > 0 and #line.found < line.chunk * 2 then return nil end
    looks = looks - 1
    line.found = redis.call('ZRANGE', line.name, line.read, line.read + line.chunk - 1, 'WITHSCORES')
    line.read = line.read + line.chunk
    line.next = 1
  end
  return line.found[line.next], tonumber(line.found[line.next + 1])
end

-- Return the lines of one fairness key: the queue without a limit, and the queues of limits that are not blocked.
-- Blocked and empty queues are removed from the key's lines and do not count toward `max`, since other limits may come
-- after them. Return also whether the reads ran out before all were seen.
function Lines.of(ring, fair, chunk, max)
  local lane, caps, kind = ring.lane, ring.caps, ring.kind
  local lines = { new_line(Keys.queue(lane, caps, kind, fair), chunk) }
  local key = Keys.lines(lane, caps, kind, fair)
  local kept, dropped = 0, nil
  repeat
    dropped = false
    for _, limit in ipairs(redis.call('ZRANGE', key, kept, math.min(max, kept + math.max(looks, 1)) - 1)) do
      local line = new_line(Keys.queue(lane, caps, kind, fair, limit), 4)
      local block = Blocks.read(limit)
      if not block and Lines.head(line) then
        line.limit = limit
        lines[#lines + 1] = line
        kept = kept + 1
      else
        Queues.leave_lines(lane, caps, kind, fair, limit)
        dropped = true
        looks = looks - 1
        if block then Blocks.add(limit, nil, line.name, { lane, caps, kind, fair }) end
      end
    end
  until not dropped or kept == max or looks <= 0
  return lines, dropped
end

-- Return the line whose head is first by priority, time and id, and the head's score; nil when all lines are empty.
function Lines.best(lines)
  local best, best_score, best_id
  for _, line in ipairs(lines) do
    local id, score = Lines.head(line)
    if id and (not best or score < best_score or (score == best_score and id < best_id)) then
      best, best_score, best_id = line, score, id
    end
  end
  return best, best_score
end
