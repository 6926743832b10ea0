-- The mirror-observer's ops for rules (in partition 0) and for the flows of a rule's keys (in each key's partition).
-- Python interprets a rule; here its body is JSON text. kind: rule (a mirror rule) or trigger.
--
-- A rule record: body (JSON text; nil: the rule was deleted), revision, counts of messages (seen, applied, dropped),
-- last_error, last_at, told_at (time of the last `dropped` event), seq. The record outlives its rule, so that a rule
-- which takes the name again goes on with its numbers: observers know a rule by its revision, and the audit trail
-- numbers the events of a name without a gap.
--
-- Needs: Call, Errors, Events, Flows, Keys, Lists, Places, Records.
local ops = Ops.mirror_observer

local MOST = 500        -- rules of one kind, as each observer keeps all rules in memory
local TELL_MS = 10000   -- at least this long between two `dropped` events of a rule

local ENTITY = { rule = 'mirror_rule', trigger = 'trigger' }

local function define(kind)
  Places.define(kind, function(r) return r.body and { [Keys.rules(kind)] = 0 } or {} end)
end

define('rule')
define('trigger')

local function view(r)
  return {
    name = r.id, body = r.body, revision = r.revision, seen = r.seen, applied = r.applied, dropped = r.dropped,
    last_error = r.last_error, last_at = r.last_at,
  }
end

-- Errors: mirror_rule_not_found, trigger_not_found.
local function read(kind, name)
  local r = Records.read(kind, name)
  if not r or not r.body then Errors.raise(ENTITY[kind] .. '_not_found', { name = name }) end
  return r
end

-- Tell every observer to load the rules again.
local function changed()
  redis.call('INCR', Keys.rules_version())
  Call.hints.rules = 1
end

-- rule_put: create or replace a rule. args: kind, name, body. reply: the rule.
-- errors: invalid_request (too many rules). events: put.
function ops.rule_put(a)
  local r = Records.edit(a.kind, a.name)
  if not r or not r.body then
    Lists.check_room(Keys.rules(a.kind), MOST, 'name')
    r = r or Records.create(a.kind, a.name, { revision = 0 })
    r.seen, r.applied, r.dropped = 0, 0, 0
  end
  r.body, r.revision, r.last_error = a.body, r.revision + 1, nil
  Events.emit(ENTITY[a.kind], r, 'put', { data = { revision = r.revision } })
  changed()
  return view(r)
end

-- rule_get: args: kind, name. reply: the rule. errors: mirror_rule_not_found, trigger_not_found.
function ops.rule_get(a) return view(read(a.kind, a.name)) end

-- rule_list: list rules by name. args: kind, cursor (a name), limit. reply: {items, cursor}.
function ops.rule_list(a)
  Records.settle()
  local from = a.cursor and '(' .. a.cursor or '-'
  local names = redis.call('ZRANGE', Keys.rules(a.kind), from, '+', 'BYLEX', 'LIMIT', 0, a.limit)
  local items = {}
  for i, name in ipairs(names) do items[i] = view(Records.read(a.kind, name)) end
  return { items = items, cursor = #names == a.limit and names[#names] or nil }
end

-- rule_delete: args: kind, name. reply: the rule as it was. errors: mirror_rule_not_found, trigger_not_found.
-- events: deleted.
function ops.rule_delete(a)
  read(a.kind, a.name)
  local r = Records.edit(a.kind, a.name)
  local was = view(r)
  Events.emit(ENTITY[a.kind], r, 'deleted', {})
  r.body, r.last_at, r.told_at = nil, nil, nil
  changed()
  return was
end

-- rules_version: return how many times rules have changed. args: none. reply: {version}.
function ops.rules_version() return { version = tonumber(redis.call('GET', Keys.rules_version()) or 0) } end

-- rule_count: add an observer's counts since its last report. args: kind, name, seen, applied, dropped, last_error.
-- events: dropped, at most one per ten seconds.
function ops.rule_count(a)
  local r = Records.edit(a.kind, a.name)
  if not r or not r.body then return end
  r.seen, r.applied, r.dropped = r.seen + a.seen, r.applied + a.applied, r.dropped + a.dropped
  r.last_at = Call.now
  if a.last_error then r.last_error = a.last_error end
  if a.dropped > 0 and (not r.told_at or Call.now - r.told_at >= TELL_MS) then
    r.told_at = Call.now
    Events.emit(ENTITY[a.kind], r, 'dropped', { reason = a.last_error, data = { dropped = r.dropped } })
  end
end

-- rule_flow: return the flow of a rule's key; create it if it is missing and `create` is given. args: rule, key, id,
-- create (fields of create_mirrored). reply: {flow_id}, or nil if there is no flow. events: flow created.
function ops.rule_flow(a)
  local key = Keys.rule_flow(a.rule, a.key)
  local flow_id = redis.call('GET', key)
  if flow_id then return { flow_id = flow_id } end
  if not a.create then return nil end
  if a.create.namespace == 'default' then a.create.namespace = nil end
  local f = Flows.create(a.id, a.create, 'mirrored', 'running')
  f.rule = { name = a.rule, key = a.key }
  redis.call('SET', key, a.id)
  return { flow_id = a.id }
end
