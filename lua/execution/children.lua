-- Children: executions that have a parent (x.parent_id). They live in the parent's partition. The parent counts its
-- children that have not ended (x.children_open), so that the end of the last child wakes the parent in the same step.
--
-- Keys.children lists the children that end with their parent (parent_close is not let_run). When the parent ends as
-- failed or canceled, the cancel-reconciler's due loop stops these children slice by slice. The parent's x.closing {at,
-- after} tells when the next slice is due and after which child id it begins.
--
-- Needs: Call, Errors, Executions, Keys, Records, Zsets.

-- Count the end of a child, and resume a parent that is suspended until its last child has ended.
function Children.ended(child)
  local parent = Records.edit('x', child.parent_id)
  if not parent or not parent.children_open then return end
  parent.children_open = parent.children_open > 1 and parent.children_open - 1 or nil
  if not parent.children_open and parent.state == 'suspended' and parent.reason == 'children' and not parent.park then
    Executions.resume(parent, 'children', 'lease-keeper', { child_id = child.id })
  end
end

-- A parent has ended as failed or canceled: mark it, so that its children are stopped.
function Children.close(parent)
  if Zsets.exists(Keys.children(parent.id)) then parent.closing = { at = Call.now } end
end

-- Refuse a new child of a parent that has failed or was canceled, unless the child may outlive its parent.
-- Errors: execution_not_found (the parent), execution_not_eligible {execution_id, state}.
function Children.admit(parent_id, parent_close)
  local parent = Executions.read(parent_id)
  if (parent.state == 'failed' or parent.state == 'canceled') and parent_close ~= 'let_run' then
    Errors.raise('execution_not_eligible', { execution_id = parent_id, state = parent.state }, 'the parent has ended: it takes no children any more')
  end
end

-- Return the ids of the next children to be stopped, at most `limit`. The last slice clears x.closing.
function Children.next_closing(parent, limit)
  local from = parent.closing.after and '(' .. parent.closing.after or '-'
  local ids = redis.call('ZRANGE', Keys.children(parent.id), from, '+', 'BYLEX', 'LIMIT', 0, limit)
  parent.closing = #ids == limit and { at = Call.now, after = ids[#ids] } or nil
  return ids
end

-- Create the children of an execution that has completed. specs: [{execution_id, …spec}], checked. Return their ids.
function Children.create(parent, specs, actor)
  local ids = {}
  for i, spec in ipairs(specs) do
    Executions.create(spec.execution_id, spec, { parent_id = parent.id, namespace = parent.namespace, actor = actor })
    ids[i] = spec.execution_id
  end
  return ids
end
