-- Children: executions that name another one as their parent, and live in its partition. The parent only counts those
-- that have not ended (x.children_open), so that the last one's end wakes it in one step.
--
-- Of those whose parent_close is cancel the parent's partition has a list (Keys.children). Ends the parent as failed or
-- canceled, they are stopped slice by slice, by the cancel-reconciler's due loop: x.closing {at, after (the last that was
-- looked at)}.
--
-- Needs: Call, Executions, Keys, Records.

-- A child has ended.
function Children.ended(child)
  local parent = Records.edit('x', child.parent_id)
  if not parent or not parent.children_open then return end
  parent.children_open = parent.children_open > 1 and parent.children_open - 1 or nil
  if not parent.children_open and parent.state == 'suspended' and parent.reason == 'children' then
    Executions.resume(parent, 'children', 'lease-keeper', { child_id = child.id })
  end
end

-- A parent has ended as failed or canceled: its children are to follow.
function Children.close(parent)
  if redis.call('EXISTS', Keys.children(parent.id)) == 1 then parent.closing = { at = Call.now } end
end

-- The next children to be stopped, at most `limit`; after the last slice there is nothing to do any more.
function Children.next_closing(parent, limit)
  local from = parent.closing.after and '(' .. parent.closing.after or '-'
  local ids = redis.call('ZRANGE', Keys.children(parent.id), from, '+', 'BYLEX', 'LIMIT', 0, limit)
  parent.closing = #ids == limit and { at = Call.now, after = ids[#ids] } or nil
  return ids
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
