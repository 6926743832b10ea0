-- Short words: records that may lie in memory for weeks, a million of them, are stored with their usual names and states
-- as two bytes each.
--
-- A word is a text as msgpack packs it: its length (one byte) and its letters. In a shortened string, byte 193, which
-- begins no msgpack value, is followed by a word's place in the list below; by 255 for the first four bytes of a time
-- (until the year 2039); or by 0 where that byte stood in the data. So every string comes back as it was, whatever it
-- holds.
--
-- Stored records depend on the list: append to it, and change nothing else. At most 254 words.
--
-- Needs: nothing.

local WORDS = {
  'suspended', 'running', 'ready', 'created', 'started', 'resumed', 'leased', 'default', 'delay', 'signal', 'children',
  'waits', 'operator', 'budget', 'attempt_index', 'lease_epoch', 'lease_expires_at', 'worker_id', 'via', 'lane', 'kind',
  'lease_id', 'verb', 'park', 'reply', 'suspend', 'await_children', 'reason', 'wake_at', 'wake_by', 'journal', 'bytes',
  'states', 'times', 'waiting', 'done', 'keys', 'key', 'waitpoints', 'waitpoint_id', 'waiting_on', 'on_timeout', 'fail',
  'resume', 'journal_appended', 'version', 'version_recorded', 'pinned', 'parent_id', 'parent_entry', 'parent_close',
  'namespace', 'tags', 'priority', 'max_attempts', 'retention_ms', 'budget_ids', 'execution_id', 'attempt', 'created_at',
  'condition', 'name', 'state', 'open', 'pending', 'entry', 'seq', 'tally', 'expires_at', 'satisfied', 'closed', 'matched',
  'retire_at', 'waitpoint_key', 'traceparent', 'children_open', 'reclaimed', 'unique_key', 'mode', 'any', 'all', 'ended_by',
}
local TIME = '\207\0\0\1'   -- msgpack's head of an integer of eight bytes, and the first three of them
local SHORT = '\2'   -- the first byte of a shortened string: no msgpack map begins with it

local codes, words   -- packed word -> its two bytes; the second of these -> packed word

-- (While a library loads, Lua's own functions do not exist.)
local function prepare()
  codes, words = {}, { ['\0'] = '\193', ['\255'] = TIME }
  for i, word in ipairs(WORDS) do
    local packed = string.char(160 + #word) .. word
    codes[packed], words[string.char(i)] = '\193' .. string.char(i), packed
  end
end

-- Return a string that a record is packed as, shortened.
function Words.short(packed)
  if not codes then prepare() end
  packed = string.gsub(packed, '\193', '\193\0')
  packed = string.gsub(packed, '\207%z%z\1', '\193\255')
  packed = string.gsub(packed, '[\161-\191][a-z_]+', codes)
  return SHORT .. packed
end

Words.FIRST = 2   -- the first byte of what is shortened, as a number

-- Return what was shortened.
function Words.whole(stored)
  if not words then prepare() end
  return (string.gsub(string.sub(stored, 2), '\193(.)', words))
end
