-- What wrk sends: wrk -s requests.lua URL -- MEASURE TASKS FIRST
-- The ids that are read and changed are random, up to TASKS; those that are deleted start at FIRST.

local headers = { ["content-type"] = "application/json" }
local measure, tasks, n
local turn = 0

local function any()
  return "/tasks/" .. math.random(tasks)
end

-- No body is like another: a row replaced by its own content would leave SQLite nothing to write.
local function write(method, path)
  n = n + 1
  return wrk.format(method, path, headers, ('{"name":"Buy milk %d","done":%s}'):format(n, tostring(n % 2 == 0)))
end

local function read(path)
  return wrk.format("GET", path)
end

local requests = {
  ["root"] = function() return read("/") end,
  ["point-read"] = function() return read(any()) end,
  ["list-100"] = function() return read("/tasks?limit=100") end,
  ["create"] = function() return write("POST", "/tasks") end,
  ["workers"] = function() return write("POST", "/tasks") end,
  ["update"] = function() return write("PUT", any()) end,
  ["delete"] = function() n = n + 1; return wrk.format("DELETE", "/tasks/" .. (n - 1)) end,
  ["mix"] = function() turn = 1 - turn; return turn == 0 and write("PUT", any()) or read(any()) end,
}

function init(args)
  measure, tasks, n = args[1], tonumber(args[2]), tonumber(args[3])
  request = requests[measure]
end

function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  print(("{\"requests\": %d, \"seconds\": %f, \"refused\": %d, \"failed\": %d}"):format(
    summary.requests, summary.duration / 1e6, errors.status, failed))
end
