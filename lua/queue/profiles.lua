-- Profiles: what a worker that asks for work can do: {has = {capability = true}, kinds = {kind or prefix ('mail.') =
-- true}, or nil for all kinds, names = the kinds as a list, prefixes = the prefixes as a list}.
--
-- Needs: nothing.

-- Return the profile of a worker. a: capabilities (list), kinds (list of kinds and of prefixes such as `mail.*`; nil:
-- all kinds).
function Profiles.of(a)
  local profile = { has = {}, kinds = a.kinds and {}, names = a.kinds and {}, prefixes = a.kinds and {} }
  for _, name in ipairs(a.capabilities or {}) do profile.has[name] = true end
  if a.kinds then
    for _, kind in ipairs(a.kinds) do
      local list = profile.names
      if string.sub(kind, -2) == '.*' then kind, list = string.sub(kind, 1, -2), profile.prefixes end
      profile.kinds[kind] = true
      list[#list + 1] = kind
    end
  end
  return profile
end

-- Return whether the worker has all the capabilities of a set (a comma-joined list).
function Profiles.serves(profile, caps)
  for name in string.gmatch(caps, '[^,]+') do
    if not profile.has[name] then return false end
  end
  return true
end

-- Return whether the worker takes work of a kind.
function Profiles.takes(profile, kind)
  if not profile.kinds or profile.kinds[kind] then return true end
  if #profile.prefixes == 0 then return false end
  for dot in string.gmatch(kind, '()%.') do
    if profile.kinds[string.sub(kind, 1, dot)] then return true end
  end
  return false
end
