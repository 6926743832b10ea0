-- What is kept between calls, for each root: values that depend on nothing but the root and names, such as keys. They would
-- be a tenth of what a call of one command costs.
--
-- Needs: nothing.

local MOST = 20000            -- when there are more values than these, of all roots together, all are forgotten
local roots, count = {}, 0    -- root -> name -> table; how many values the tables have
local own                     -- name -> table, of this call's root
local settled                 -- the same, once all modules have asked for their tables
local changes = {}

-- Call f() at the beginning of a call whose tables are not those of the call before.
function Kept.on_root(f) changes[#changes + 1] = f end

-- Return a table of this call's root; ask for it in f of Kept.on_root. Values are put into it, and into tables in it, by
-- Kept.put alone.
function Kept.table(name) return table_at(own, name) end

-- Put a value into such a table, and return it.
function Kept.put(t, name, value)
  t[name], count = value, count + 1
  return value
end

function Kept.begin(root)
  if count > MOST then roots, count = {}, 0 end
  own = roots[root] or Kept.put(roots, root, {})
  if own == settled then return end
  for i = 1, #changes do changes[i]() end
  settled = own
end
