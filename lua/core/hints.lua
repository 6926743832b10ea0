-- Hints: news that a call gives its service beside the replies, so that the service wakes whoever waits for them
-- (docs/architecture.md).
--
-- Needs: Errors, Undo.

-- Set hints[name][key] = value; of two values the lower one stays.
function Call.hint(name, key, value)
  local hint = table_at(Call.hints, name)
  local old = hint[key]
  if old == nil or value < old then Undo.set(hint, key, value) end
end

-- Remove hints[name][key].
function Call.unhint(name, key)
  local hint = Call.hints[name]
  if hint then Undo.set(hint, key, nil) end
end

-- Append an item to the list hints[name].
function Call.hint_item(name, item) Undo.append(table_at(Call.hints, name), item) end

-- Report a failure that must not fail a command: the service logs it.
function Call.fault(what, err) Call.hint_item('faults', what .. ': ' .. Errors.text(err)) end

-- Return the hints, packed, without those that were removed again; '' when there are none.
function Call.packed_hints()
  for name, hint in pairs(Call.hints) do
    if type(hint) == 'table' and not next(hint) then Call.hints[name] = nil end
  end
  return next(Call.hints) and pack(Call.hints) or ''
end
