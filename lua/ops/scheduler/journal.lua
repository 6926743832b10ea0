-- The scheduler's ops on durable functions: fork one, read its state, count them by version.
--
-- Needs: Entries, Errors, Executions, Journal, Keys, Lanes, Payloads, Records.
local ops = Ops.scheduler

-- What was copied for a fork goes away by itself if the fork is not created within this time.
local PREPARED_MS = 600000

-- copy_journal: copy a part of a journal for a fork, in as many calls as it takes, before the fork is created: a journal
-- may have 10,000 entries, and one call that copied all would keep Valkey from everything else. Repeatable.
-- args: id (of the fork), execution_id, after_key, before_key (at most one of them), edits [{key, result}], place (in
-- the old journal, that was reached), journal {n, bytes, undo} (copied so far). reply: {place, journal, more, edited [keys],
-- there}; there: the fork exists already. errors: execution_not_found, journal_entry_not_found {key}. events: none.
function ops.copy_journal(a)
  local old = Executions.read(a.execution_id)
  if Records.read('x', a.id) then return { place = a.place, journal = a.journal, more = false, edited = {}, there = true } end
  local to = { id = a.id, journal = a.journal }
  local place, more, edited = Entries.copy(old, to, a.place, a.after_key, a.before_key, a.edits)
  if to.journal.n > 0 then Journal.lives(to, PREPARED_MS) end
  return { place = place, journal = to.journal, more = more, edited = edited }
end

-- fork: create an execution like another one, in the same partition, with the journal that copy_journal has made. The
-- other one does not change. Times (run_at, deadline), flow, parent and version are not copied.
-- args: id (of the new execution), again (as in create), execution_id, override (true: `input` replaces the old input; nil
-- is null), input, journal (as copied), traceparent. reply: {execution_id, state, duplicate, forked_from,
-- entries}. errors: execution_not_found, execution_not_eligible {lane, lane_status} (the lane drains), timeout (what was
-- copied is gone). events: created.
function ops.fork(a)
  local old = Executions.read(a.execution_id)
  local x = Records.read('x', a.id)
  -- The command came twice (the service's connection broke before the first reply), as in create.
  local duplicate = x ~= nil and a.again or false
  if not x then
    Lanes.admit(old.lane)
    local spec = Executions.spec_of(old)
    spec.input, spec.traceparent = a.input, a.traceparent
    if not a.override then spec.input = Payloads.of(old, 'input') end
    x = Executions.create(a.id, spec, { namespace = old.namespace, forked_from = old.id, actor = 'operator' })
    if a.journal.n > 0 then
      if Journal.prepared(x) ~= a.journal.n then Errors.raise('timeout', {}, 'copying the journal took too long: ask again') end
      x.journal = a.journal
      Journal.lives(x, nil)
    end
  end
  return {
    execution_id = a.id, state = x.state, duplicate = duplicate, forked_from = old.id, entries = x.journal and x.journal.n or 0,
  }
end

-- query: return the state of a durable function. args: execution_id, names (none: all).
-- reply: {execution_id, state, items [{name, value, at}]}. errors: execution_not_found. events: none.
function ops.query(a)
  local x = Executions.read(a.execution_id)
  return { execution_id = x.id, state = x.state, items = Entries.state(x, a.names) }
end

-- Versions of a kind that a call looks at.
local MOST = 1000

-- versions: count the executions of a kind that have not ended, by version. args: kind. reply: {items [{version, open,
-- oldest (an id)}]}. errors: none. events: none.
function ops.versions(a)
  Records.settle()
  local items = {}
  for _, version in ipairs(redis.call('ZRANGE', Keys.versions(a.kind), 0, MOST - 1)) do
    local key = Keys.version(a.kind, version)
    local open = redis.call('ZCARD', key)
    if open > 0 then
      items[#items + 1] = { version = version, open = open, oldest = redis.call('ZRANGE', key, 0, 0)[1] }
    else
      redis.call('ZREM', Keys.versions(a.kind), version)
    end
  end
  return { items = items }
end
