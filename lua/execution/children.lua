-- Children: executions that name another one as their parent, and live in its partition. The parent only counts those
-- that have not ended (x.children_open), so that the last one's end wakes it in one step.
--
-- Needs: Executions, Records.

-- A child has ended.
function Children.ended(child)
  local parent = Records.edit('x', child.parent_id)
  if not parent or not parent.children_open then return end
  parent.children_open = parent.children_open > 1 and parent.children_open - 1 or nil
  if not parent.children_open and parent.state == 'suspended' and parent.reason == 'children' then
    Executions.resume(parent, 'children', 'lease-keeper', { child_id = child.id })
  end
end

-- Makes the children of an execution that ends. specs: [{execution_id, …spec}], checked. Returns their ids.
function Children.create(parent, specs, actor)
  local ids = {}
  for i, spec in ipairs(specs) do
    Executions.create(spec.execution_id, spec, { parent_id = parent.id, namespace = parent.namespace, actor = actor })
    ids[i] = spec.execution_id
  end
  return ids
end
