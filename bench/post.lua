-- wrk -s post.lua URL -- FILE 'Name: value'...: posts the file, and ends with one line of JSON for load.py.
function init(args)
  wrk.method = "POST"
  local file = assert(io.open(args[1], "rb"))
  wrk.body = file:read("*a")
  file:close()
  for i = 2, #args do
    local name, value = args[i]:match("^(%S+): (.*)$")
    wrk.headers[name] = value
  end
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format(
    '\n{"requests": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f, "failures": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
