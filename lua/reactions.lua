-- The reactions to an execution's move, in this order. Only this file knows which modules react to a move; the modules
-- do not call each other for that.
--
-- Needs: Breaches, Children, Graph, Leases, Limits, States, Unique, Waitpoints, Waits.

States.when_moved(function(x, from, to)
  local held, ended = States.HELD[to], States.TERMINAL[to]
  if States.HELD[from] and not held then Leases.drop(x) end
  if x.slot and not held then Limits.free(x, from == 'running') end
  if (x.park or x.hold) and from == 'suspended' then Waits.left(x) end
  if x.held_by and from == 'suspended' then Breaches.left(x) end
  if x.parent_id and ended then Children.ended(x) end
  if x.parent_entry and ended then Waits.child_ended(x) end
  if ended and to ~= 'completed' and x.children_open then Children.close(x) end
  if x.unique_key and ended then Unique.ended(x) end
  if x.waitpoints or x.waiting_on or x.woken_by then Waitpoints.execution_moved(x, from, to) end
  if x.flow_id then Graph.member_moved(x, from, to) end
end)
