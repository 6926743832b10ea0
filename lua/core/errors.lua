-- Typed errors. An op raises before its first write; the dispatcher turns the error into the command's reply.
--
-- Needs: nothing.

-- Raise an error. code: one of penstock.errors.TABLE; detail: map for the caller; message: overrides the table's text.
function Errors.raise(code, detail, message)
  error({ code = code, detail = detail, message = message })
end

function Errors.invalid(field, message)
  Errors.raise('invalid_request', { field = field }, field .. ': ' .. message)
end

-- Return an error as text, whether an op, Valkey or Lua itself raised it.
function Errors.text(err) return type(err) == 'table' and tostring(err.code or err.err) or tostring(err) end
