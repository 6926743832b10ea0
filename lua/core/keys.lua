-- Every key of Valkey is built here. All of a call's keys begin with its root, `<root>:{<partition>}`, so that they share a
-- slot; the names of lanes, keys and the like hold no `|`.
--
-- What stands behind each is told where it is kept: docs/architecture.md has the table.
--
-- Needs: Call.

local due, states, all   -- of this call: built over and over otherwise

Call.on_begin(function() due, states, all = {}, {}, nil end)

-- A record, a payload, a list of one entity: `x`, `f`, `input`, `h` (history), `fr` (frames), `sg` (signals) …
function Keys.of(part, id) return Call.root .. ':' .. part .. ':' .. id end

function Keys.partitions() return Call.root .. ':partitions' end
function Keys.outbox() return Call.root .. ':outbox' end
function Keys.secrets() return Call.root .. ':secrets' end
function Keys.idempotency(verb, namespace, name) return Call.root .. ':idem:' .. verb .. ':' .. namespace .. ':' .. name end

-- Ids by due time.
function Keys.due(service, kind)
  local of = table_at(due, service)
  local key = of[kind]
  if not key then
    key = Call.root .. ':due:' .. service .. ':' .. kind
    of[kind] = key
  end
  return key
end

-- Executions: all, by lane and state, by tag (its name, and `name=value`).
function Keys.executions()
  all = all or Call.root .. ':all'
  return all
end
function Keys.state(lane, state)
  local of = table_at(states, state)
  local key = of[lane]
  if not key then
    key = Call.root .. ':s:' .. lane .. ':' .. state
    of[lane] = key
  end
  return key
end
function Keys.tag(tag) return Call.root .. ':tag:' .. tag end
-- The children of an execution that end with it; the execution that has a unique key.
function Keys.children(parent_id) return Call.root .. ':ch:' .. parent_id end
function Keys.unique(namespace, name) return Call.root .. ':uq:' .. namespace .. ':' .. name end
function Keys.lanes() return Call.root .. ':lanes' end

-- Ready work, and what leads to it (queue/queues.lua).
function Keys.queue(lane, caps, fair, limit)
  local name = Call.root .. ':q:' .. lane .. '|' .. caps .. '|' .. fair
  if limit then return name .. '|' .. limit end
  return name
end
function Keys.ring(lane, caps) return Call.root .. ':ring:' .. lane .. '|' .. caps end
function Keys.lines(lane, caps, fair) return Call.root .. ':lines:' .. lane .. '|' .. caps .. '|' .. fair end
function Keys.turns(lane) return Call.root .. ':turns:' .. lane end
function Keys.rings(lane) return Call.root .. ':rings:' .. lane end
function Keys.capability_groups(lane) return Call.root .. ':caps:' .. lane end
function Keys.capability_group(lane, name) return Call.root .. ':caps:' .. lane .. '|' .. name end
function Keys.capability_sets(lane) return Call.root .. ':sets:' .. lane end
function Keys.aside(lane) return Call.root .. ':aside:' .. lane end

-- The books of a limit's token.
function Keys.slots(token) return Call.root .. ':slots:' .. token end
function Keys.window(token) return Call.root .. ':window:' .. token end
function Keys.waiting(token) return Call.root .. ':waiting:' .. token end
function Keys.blocked(token) return Call.root .. ':blocked:' .. token end
function Keys.budget(part, id) return Call.root .. ':budget-' .. part .. ':' .. id end

-- Waitpoints: of a namespace, by what is shown as their status; of an execution.
function Keys.waitpoints(namespace, status) return Call.root .. ':ws:' .. namespace .. '|' .. status end
function Keys.waitpoints_of(execution_id) return Call.root .. ':wx:' .. execution_id end

-- Events that flows wait for: who waits, and what came.
function Keys.event_waiters(topic, correlation_id) return Call.root .. ':ew:' .. topic .. '|' .. correlation_id end
function Keys.events(topic, correlation_id) return Call.root .. ':ev:' .. topic .. '|' .. correlation_id end

function Keys.flows(status) return Call.root .. ':fs:' .. status end
function Keys.flows_of(owner, status) return Call.root .. ':fb:' .. owner .. ':' .. status end
-- Mirror rules and triggers: their names, how often they changed, and the flow of a rule's key.
function Keys.rules(kind) return Call.root .. ':' .. kind .. 's' end
function Keys.rules_version() return Call.root .. ':rules-version' end
function Keys.rule_flow(rule, key) return Call.root .. ':rf:' .. rule .. '|' .. key end

function Keys.schedules(status) return Call.root .. ':schedules:' .. status end
function Keys.workers() return Call.root .. ':workers' end
function Keys.held() return Call.root .. ':held' end
