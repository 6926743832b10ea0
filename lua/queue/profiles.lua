-- Profiles: what a worker that asks for work can do: {has = {capability = true}, kinds = {kind = true}, or nil for all
-- kinds, names = the kinds as a list, prefixes = what the kinds that it takes beside those begin with ('mail.')}.
--
-- Needs: nothing.

-- Return the profile of a worker. a: capabilities (list), kinds (list of kinds and of prefixes such as `mail.*`; nil:
-- all kinds).
function Profiles.of(a)
  local profile = { has = {} }
  for _, name in ipairs(a.capabilities or {}) do profile.has[name] = true end
  if a.kinds then
    profile.kinds, profile.names, profile.prefixes = {}, {}, {}
    for _, kind in ipairs(a.kinds) do
      if string.sub(kind, -2) == '.*' then
        profile.prefixes[#profile.prefixes + 1] = string.sub(kind, 1, -2)
      else
        profile.kinds[kind] = true
        profile.names[#profile.names + 1] = kind
      end
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
  for _, prefix in ipairs(profile.prefixes) do
    if string.sub(kind, 1, #prefix) == prefix then return true end
  end
  return false
end
