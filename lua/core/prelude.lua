-- The rooms of this library. Every file fills one of them; nothing is global (function libraries may not).
-- Files are joined in the order of lua/manifest; the last line of a file's header names the rooms that it needs.

-- What every room stands on (core/).
local Errors, Undo, Call, Keys, Zsets, Hashes, Records, Payloads, Events, Due = {}, {}, {}, {}, {}, {}, {}, {}, {}, {}
local Idempotency, Lists, Memory, Dispatch = {}, {}, {}, {}
-- One folder for each thing, its record and its rules.
local Blocks, Queues, Lanes, Limits, Quotas, Budgets, Workers = {}, {}, {}, {}, {}, {}, {}
local Executions, States, Children, Unique, Leases, Fences, Breaches = {}, {}, {}, {}, {}, {}, {}
local Flows, Graph, FlowWaits, Conditions, Waitpoints, Schedules = {}, {}, {}, {}, {}, {}
-- Ops.<service>.<op> = function(args) return reply end (ops/).
local Ops = {
  scheduler = {}, lease_keeper = {}, signal_router = {},
  mirror_observer = {}, cancel_reconciler = {}, audit_relay = {},
}
-- cmsgpack does not exist while a library loads: Dispatch sets these two.
local pack, unpack_msg

-- The table at t[key], which is made when it is missing.
local function table_at(t, key)
  local found = t[key]
  if not found then
    found = {}
    t[key] = found
  end
  return found
end
