-- Statistics that the audit-relay counts and people read: what happened in a lane minute by minute, and failures by
-- their cause. Their texts are JSON that Python makes and reads (shared/penstock/statistics). All are in partition 0.
--
-- Keys: minutes:<lane> (a hash: minute of the day -> text, so that a day overwrites the one before), minutes-lanes (lanes
-- by the minute that was written last), failure-groups (a hash: group -> text), failure-times (groups by the last failure).
--
-- Needs: Call, Keys.

local DAY_MINUTES = 1440
local DAY_MS = 86400000
local WEEK_MS = 7 * DAY_MS
local LANES = 101      -- the most lanes with minutes of their own; one is the sum of all
local GROUPS = 1000    -- the most failure groups

-- Return the text of a minute, or false.
function Statistics.minute(lane, minute)
  return redis.call('HGET', Keys.minutes(lane), tostring(minute % DAY_MINUTES))
end

-- Keep the text of a minute. A lane beyond the first LANES of the last day is left out.
function Statistics.keep_minute(lane, minute, text)
  local lanes, key = Keys.minutes_lanes(), Keys.minutes(lane)
  if not redis.call('ZSCORE', lanes, lane) then
    redis.call('ZREMRANGEBYSCORE', lanes, '-inf', minute - DAY_MINUTES)
    if redis.call('ZCARD', lanes) >= LANES then return end
  end
  redis.call('ZADD', lanes, minute, lane)
  redis.call('HSET', key, tostring(minute % DAY_MINUTES), text)
  redis.call('PEXPIRE', key, DAY_MS)
  redis.call('PEXPIRE', lanes, DAY_MS)
end

-- Return the texts of all minutes of a lane, in no order.
function Statistics.minutes(lane) return redis.call('HVALS', Keys.minutes(lane)) end

-- Return the text of a failure group, or false.
function Statistics.group(id) return redis.call('HGET', Keys.failure_groups(), id) end

-- Keep the text of a failure group whose last failure was at `at`, and forget the groups that are too old or too many.
function Statistics.keep_group(id, text, at)
  local groups, times = Keys.failure_groups(), Keys.failure_times()
  redis.call('HSET', groups, id, text)
  redis.call('ZADD', times, at, id)
  local spare = redis.call('ZRANGEBYSCORE', times, '-inf', Call.now - WEEK_MS, 'LIMIT', 0, 10)
  if redis.call('ZCARD', times) > GROUPS then spare = redis.call('ZRANGE', times, 0, 0) end
  for _, each in ipairs(spare) do
    redis.call('HDEL', groups, each)
    redis.call('ZREM', times, each)
  end
end

-- Return the texts of the failure groups, the last failure first.
function Statistics.groups()
  local ids = redis.call('ZREVRANGE', Keys.failure_times(), 0, GROUPS - 1)
  if #ids == 0 then return {} end
  return redis.call('HMGET', Keys.failure_groups(), unpack(ids))
end
