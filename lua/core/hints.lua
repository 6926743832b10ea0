-- Hints: what a call tells its service beside the replies, so that whoever waits for it is woken (docs/architecture.md).
--
-- Needs: Errors, Undo.

-- Sets hints[name][key] = value, or the lower one of two numbers.
function Call.hint(name, key, value)
  local hint = table_at(Call.hints, name)
  local old = hint[key]
  if old == nil or value < old then Undo.set(hint, key, value) end
end

-- Takes back hints[name][key].
function Call.unhint(name, key)
  local hint = Call.hints[name]
  if hint then Undo.set(hint, key, nil) end
end

-- Appends to the list hints[name].
function Call.hint_item(name, item) Undo.append(table_at(Call.hints, name), item) end

-- Something failed that no command is to suffer for: the service logs it.
function Call.fault(what, err) Call.hint_item('faults', what .. ': ' .. Errors.text(err)) end

-- The hints, packed as they are sent: without those that were taken back.
function Call.packed_hints()
  for name, hint in pairs(Call.hints) do
    if type(hint) == 'table' and not next(hint) then Call.hints[name] = nil end
  end
  return next(Call.hints) and pack(Call.hints) or ''
end
