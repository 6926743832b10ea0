-- The modules of this library ("rooms" in the tests). They are local, since a function library may not have globals.
-- Files are joined in the order of lua/manifest; a file's header ends with the names of the other modules it needs.

-- The base of all other modules (core/).
local Errors, Notes, Kept, Call, Undo, Keys, Zsets, Hashes, Words, Places, Records = {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}
local Payloads, Events, Due, Idempotency, Lists, Memory, Dispatch = {}, {}, {}, {}, {}, {}, {}
-- The domain modules: one folder for each kind of thing, with its record and its rules.
local Profiles, Rings, Lines, Tenants, Blocks, Queues, Lanes, Statistics = {}, {}, {}, {}, {}, {}, {}, {}
local Limits, Quotas, Budgets, Workers, Kinds = {}, {}, {}, {}, {}
local Executions, States, Children, Unique, Journal, Leases, Fences, Breaches = {}, {}, {}, {}, {}, {}, {}, {}
local Flows, Graph, FlowWaits, Conditions, Waitpoints, Waits, Entries = {}, {}, {}, {}, {}, {}, {}
local Schedules, Bulks = {}, {}
-- What the files of ops/cancel_reconciler/ share.
local Cancels = {}
-- Ops.<service>.<op> = function(args) return reply end (ops/).
local Ops = {
  scheduler = {}, lease_keeper = {}, signal_router = {},
  mirror_observer = {}, cancel_reconciler = {}, audit_relay = {},
}
-- cmsgpack's functions. They do not exist while a library loads, so Dispatch sets these two when a call begins.
local pack, unpack_msg

-- Return the table at t[key]; create it when it is missing.
local function table_at(t, key)
  local found = t[key]
  if not found then
    found = {}
    t[key] = found
  end
  return found
end

-- Return whether a list holds a value; a list that is nil holds none.
local function contains(list, value)
  for _, each in ipairs(list or {}) do
    if each == value then return true end
  end
  return false
end

-- Append a value to a list that keeps the last `most`. Return false, and change nothing, if the list holds it already.
local function remember(list, value, most)
  if contains(list, value) then return false end
  list[#list + 1] = value
  if #list > most then table.remove(list, 1) end
  return true
end
