-- The requests that wrk sends: wrk -s requests.lua URL -- KIND TASKS
-- The ids that are read and updated are random, from 1 to TASKS.

local headers = { ["content-type"] = "application/json" }
local tasks

local function random_path()
  return "/tasks/" .. math.random(tasks)
end

-- Each body is a new one: SQLite writes nothing for an update that leaves a row as it was.
local function random_body()
  local number = math.random(1e9)
  return ('{"name":"Buy milk %d","done":%s}'):format(number, tostring(number % 2 == 0))
end

local kinds = {
  ["read"] = function() return wrk.format("GET", random_path()) end,
  ["list"] = function() return wrk.format("GET", "/tasks?limit=100") end,
  ["create"] = function() return wrk.format("POST", "/tasks", headers, random_body()) end,
  ["update"] = function() return wrk.format("PUT", random_path(), headers, random_body()) end,
}

function init(args)
  math.randomseed(os.time())
  request = kinds[args[1]]
  tasks = tonumber(args[2])
end

-- The last line that wrk prints: the results as JSON. Latencies are in milliseconds.
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
  local result = '{"requests":%d,"seconds":%f,"failed":%d,"p50":%f,"p99":%f,"max":%f}'
  print(result:format(
    summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3
  ))
end
