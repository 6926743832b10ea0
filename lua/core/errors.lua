-- Typed refusals. An op raises before its first write; the dispatcher turns it into the command's answer.
--
-- Needs: nothing.

-- code: one of penstock.errors.TABLE; detail: map for the caller; message: overrides the table's text.
function Errors.raise(code, detail, message)
  error({ code = code, detail = detail, message = message })
end

function Errors.invalid(field, message)
  Errors.raise('invalid_request', { field = field }, field .. ': ' .. message)
end

-- What was raised, by an op, by Valkey or by Lua itself, as text.
function Errors.text(err) return type(err) == 'table' and tostring(err.code or err.err) or tostring(err) end
