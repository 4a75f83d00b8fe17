-- wrk -s post.lua URL -- FILE 'Name: value'...: posts the file, and ends with one line of JSON for load.py.
-- `{n}` in a header stands for 16 digits that differ in each request.
function init(args)
  wrk.method = "POST"
  local file = assert(io.open(args[1], "rb"))
  wrk.body = file:read("*a")
  file:close()
  for i = 2, #args do
    local name, value = args[i]:match("^(%S+): (.*)$")
    wrk.headers[name] = value
  end
  local template, count = wrk.format(), 0
  if template:find("{n}", 1, true) then
    request = function()
      count = count + 1
      return (template:gsub("{n}", string.format("%016x", count)))
    end
  end
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format(
    '\n{"requests": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f, "failures": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
