-- Conditions: which signals a waitpoint waits for, evaluated over the tally of its signals. Pure functions.
--
-- A tally counts signals by name: {name = {n, s = {source = 1}}} (signals without a source share the source '').
-- A node is {name}, {prefix} ('review.' for `review.*`), {any = nodes}, {all = nodes} or {n, distinct, of = nodes}.
--
-- A node's value is the set of signal names that satisfy the node, or nil. So a count node counts only signals that its
-- own branches matched, however deep the node is and whatever other signals have come.
--
-- Needs: nothing.

local value

-- Return the union of the nodes' values; nil if all nodes are unsatisfied or, with `every`, if one of them is.
local function union(nodes, tally, every)
  local names
  for _, node in ipairs(nodes) do
    local found = value(node, tally)
    if found then
      names = names or {}
      for name in pairs(found) do names[name] = true end
    elseif every then
      return nil
    end
  end
  return names
end

local function starting_with(prefix, tally)
  local names
  for name in pairs(tally) do
    if string.sub(name, 1, #prefix) == prefix then
      names = names or {}
      names[name] = true
    end
  end
  return names
end

-- Return how many signals have these names or, if `distinct`, from how many sources they came.
local function count(names, tally, distinct)
  local n, seen = 0, {}
  for name in pairs(names) do
    if distinct then
      for source in pairs(tally[name].s) do
        if not seen[source] then
          seen[source] = true
          n = n + 1
        end
      end
    else
      n = n + tally[name].n
    end
  end
  return n
end

function value(node, tally)
  if node.name then return tally[node.name] and { [node.name] = true } end
  if node.prefix then return starting_with(node.prefix, tally) end
  if node.any then return union(node.any, tally, false) end
  if node.all then return union(node.all, tally, true) end
  local names = union(node.of, tally, false)
  return names and count(names, tally, node.distinct) >= node.n and names or nil
end

-- Return the names of the signals that satisfy the condition, or nil while it is not met. condition nil: any signal.
function Conditions.met(condition, tally)
  local names = condition and value(condition, tally)
  if condition and not names then return nil end
  local list = {}
  for name in pairs(names or tally) do list[#list + 1] = name end
  return #list > 0 and list or nil
end

-- Count one more signal in the tally.
function Conditions.count(tally, name, source)
  local of = tally[name]
  if not of then
    of = { n = 0, s = {} }
    tally[name] = of
  end
  of.n = of.n + 1
  of.s[source or ''] = 1
end
