-- The edges of a flow's members, a hundred to a field, so that a step along a wide fan-out does not unpack all of it.
--
-- Keys of one flow: fo {member key: its first out edges, `<member key>\0<n>`: the next hundred, …}, an edge being {to, data};
-- fi, the same of its in edges: {from, id (of that execution), data}.
--
-- Needs: Hashes, Keys.

local CHUNK = 100

local function field(key, n) return n == 0 and key or key .. '\0' .. n end

local function read(name, key, n)
  local packed = Hashes.get(name, field(key, n))
  return packed and unpack_msg(packed) or {}
end

-- A member's edges after the first `skip`, at most `limit` (nil: all); and whether these are the last. part: fo or fi.
function Graph.edges(f, part, key, skip, limit)
  local name, found = Keys.of(part, f.id), {}
  local n, at = math.floor(skip / CHUNK), skip % CHUNK
  while true do
    local edges = read(name, key, n)
    for i = at + 1, #edges do
      if #found == limit then return found, false end
      found[#found + 1] = edges[i]
    end
    if #edges < CHUNK then return found, true end
    n, at = n + 1, 0
  end
end

-- More edges of a member. new: it has none yet.
function Graph.add_edges(f, part, key, more, new)
  local name, n, edges = Keys.of(part, f.id), 0, {}
  if not new then
    while Hashes.has(name, field(key, n + 1)) do n = n + 1 end
    edges = read(name, key, n)
  end
  for _, edge in ipairs(more) do
    if #edges == CHUNK then
      Hashes.set(name, field(key, n), pack(edges))
      n, edges = n + 1, {}
    end
    edges[#edges + 1] = edge
  end
  if #edges > 0 then Hashes.set(name, field(key, n), pack(edges)) end
end
