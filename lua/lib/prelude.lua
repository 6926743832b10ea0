-- The rooms of this library. Every file fills one of them; nothing is global (function libraries may not).
-- Files are joined in the order of lua/manifest.
local Call, Errors, Zsets, Records, Events, Payloads, Queues, Due = {}, {}, {}, {}, {}, {}, {}, {}
local States, Executions, Fences, Leases, Flows, Graph, Lists, Idempotency = {}, {}, {}, {}, {}, {}, {}, {}
local Conditions, Waitpoints, Limits, Blocks, Quotas = {}, {}, {}, {}, {}
local Children, Facts = {}, {}
local Budgets, Schedules = {}, {}
local Workers = {}
local Memory, Undo, Hashes = {}, {}, {}
-- Ops.<service>.<op> = function(args) return reply end; filled by the six service files.
local Ops = {
  scheduler = {}, lease_keeper = {}, signal_router = {},
  mirror_observer = {}, cancel_reconciler = {}, audit_relay = {},
}
-- cmsgpack does not exist while a library loads: Call.run sets these two.
local pack, unpack_msg
