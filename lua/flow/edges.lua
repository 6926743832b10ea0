-- The edges of a flow's members. A hash field holds up to a hundred edges: a step along a wide fan-out unpacks few.
--
-- Keys of one flow: fo {member key: its first hundred out edges, `<member key>\0<n>`: the next hundreds}, an edge being
-- {to, data}; fi, the same for in edges: {from, id (of the execution `from`), data}.
--
-- Needs: Hashes, Keys.

local CHUNK = 100

local function field(key, n) return n == 0 and key or key .. '\0' .. n end

local function read(name, key, n)
  local packed = Hashes.get(name, field(key, n))
  return packed and unpack_msg(packed) or {}
end

-- Return a member's edges after the first `skip`, at most `limit` (nil: all), and whether they are the last.
-- part: fo or fi.
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

-- Append edges to a member. new: the member has no edges yet.
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
