-- Every Valkey key is built here. All keys of a call begin with its root, `<root>:{<partition>}`, so that they share a
-- cluster slot. Names of lanes, fairness keys and the like contain no `|`.
--
-- The module that uses a key describes its content; docs/architecture.md has the table of all keys.
--
-- Needs: Call, Kept.

-- Keys that are needed again and again are kept between calls, and what others begin with: name -> key; part of an
-- entity -> prefix; lane -> state -> key.
local singles, prefixes, states

Kept.on_root(function()
  singles, prefixes, states = Kept.table('singles'), Kept.table('prefixes'), Kept.table('states')
end)

local function keep(of, name, ending) return Kept.put(of, name, Call.root .. ending) end

local function single(name) return singles[name] or keep(singles, name, ':' .. name) end

-- The key of one part of an entity: a record (`x`, `f`), a payload (`input`), `h` (history), `fr` (frames), `sg` …
function Keys.of(part, id)
  return (prefixes[part] or keep(prefixes, part, ':' .. part .. ':')) .. id
end

function Keys.partitions() return Call.root .. ':partitions' end
function Keys.hint_key() return Call.root .. ':hint-key' end
function Keys.mark() return Call.root .. ':mark' end
function Keys.outbox() return single('outbox') end
function Keys.relayed() return Call.root .. ':relayed' end
function Keys.secrets() return Call.root .. ':secrets' end
function Keys.idempotency(verb, namespace, name) return Call.root .. ':idem:' .. verb .. ':' .. namespace .. ':' .. name end

-- The due set of a service and kind: record ids by due time.
function Keys.due(service, kind) return Call.root .. ':due:' .. service .. ':' .. kind end

-- Indexes of executions: all of them, by lane and state, by tag (`name` and `name=value`), by the last failure's category,
-- by parent.
function Keys.executions() return single('all') end
-- Return what is kept of a lane: {state = key}.
function Keys.states(lane) return states[lane] or table_at(states, lane) end
function Keys.state(lane, state)
  local of = Keys.states(lane)
  return of[state] or keep(of, state, ':s:' .. lane .. ':' .. state)
end
function Keys.tag(tag) return Call.root .. ':tag:' .. tag end
function Keys.failures(category) return Call.root .. ':failures:' .. category end
function Keys.parent(parent_id) return Call.root .. ':parent:' .. parent_id end
-- The children that are stopped when their parent fails or is canceled; the id of the execution that has a unique key.
function Keys.children(parent_id) return Call.root .. ':ch:' .. parent_id end
function Keys.unique(namespace, name) return Call.root .. ':uq:' .. namespace .. ':' .. name end
-- Of a kind of durable functions: the versions that were recorded, and the executions of one that have not ended.
function Keys.versions(kind) return Call.root .. ':versions:' .. kind end
function Keys.version(kind, version) return Call.root .. ':version:' .. kind .. '|' .. version end
function Keys.lanes() return single('lanes') end

-- Ready queues, and the indexes that lead to them (queue/queues.lua, queue/rings.lua).
function Keys.queue(lane, caps, kind, fair, limit)
  local name = Call.root .. ':q:' .. lane .. '|' .. caps .. '|' .. kind .. '|' .. fair
  if limit then return name .. '|' .. limit end
  return name
end
function Keys.ring(lane, caps, kind) return Call.root .. ':ring:' .. lane .. '|' .. caps .. '|' .. kind end
function Keys.lines(lane, caps, kind, fair)
  return Call.root .. ':lines:' .. lane .. '|' .. caps .. '|' .. kind .. '|' .. fair
end
function Keys.fronts(lane, caps) return Call.root .. ':fronts:' .. lane .. '|' .. caps end
function Keys.kinds(lane, caps) return Call.root .. ':kinds:' .. lane .. '|' .. caps end
function Keys.turns(lane) return Call.root .. ':turns:' .. lane end
function Keys.rings(lane, fair) return Call.root .. ':rings:' .. lane .. '|' .. fair end
function Keys.capability_groups(lane) return Call.root .. ':caps:' .. lane end
function Keys.capability_group(lane, name) return Call.root .. ':caps:' .. lane .. '|' .. name end
function Keys.capability_sets(lane) return Call.root .. ':sets:' .. lane end
function Keys.aside(lane) return Call.root .. ':aside:' .. lane end

-- What is kept per token of a limit: its slots, its window, the partitions and blocked limits that wait for room.
function Keys.slots(token) return Call.root .. ':slots:' .. token end
function Keys.window(token) return Call.root .. ':window:' .. token end
function Keys.waiting(token) return Call.root .. ':waiting:' .. token end
function Keys.blocked(token) return Call.root .. ':blocked:' .. token end
-- A budget's sets of members: `breaches` and `held`; and its `dedup` keys (limit/budgets.lua).
function Keys.budget(part, id) return Call.root .. ':budget-' .. part .. ':' .. id end

-- Indexes of waitpoints: by namespace and public status, by execution.
function Keys.waitpoints(namespace, status) return Call.root .. ':ws:' .. namespace .. '|' .. status end
function Keys.waitpoints_of(execution_id) return Call.root .. ':wx:' .. execution_id end

-- Per topic and correlation id: the flows that wait for an event, the waitpoints that do, and the events that came.
function Keys.event_waiters(topic, correlation_id) return Call.root .. ':ew:' .. topic .. '|' .. correlation_id end
function Keys.event_waitpoints(topic, correlation_id) return Call.root .. ':ewp:' .. topic .. '|' .. correlation_id end
function Keys.events(topic, correlation_id) return Call.root .. ':ev:' .. topic .. '|' .. correlation_id end

function Keys.flows(status) return Call.root .. ':fs:' .. status end
function Keys.flows_of(owner, status) return Call.root .. ':fb:' .. owner .. ':' .. status end
-- Mirror rules and triggers: their names, the number of their changes, and the flow that a rule made for a key.
function Keys.rules(kind) return Call.root .. ':' .. kind .. 's' end
function Keys.rules_version() return Call.root .. ':rules-version' end
function Keys.rule_flow(rule, key) return Call.root .. ':rf:' .. rule .. '|' .. key end

-- Statistics (lane/statistics.lua).
function Keys.minutes(lane) return Call.root .. ':minutes:' .. lane end
function Keys.minutes_lanes() return Call.root .. ':minutes-lanes' end
function Keys.failure_groups() return Call.root .. ':failure-groups' end
function Keys.failure_times() return Call.root .. ':failure-times' end

function Keys.schedules(status) return Call.root .. ':schedules:' .. status end
function Keys.bulks(status) return Call.root .. ':bulks:' .. status end
function Keys.workers() return Call.root .. ':workers' end
function Keys.kind_names() return Call.root .. ':kind-names' end
function Keys.held() return single('held') end
