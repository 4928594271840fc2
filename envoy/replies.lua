-- Gives every refusal the reason that the contracts name, whoever refused: a service or Envoy itself.
-- gRPC and gRPC-Web: `grpc-status-details-bin` with an ErrorInfo where Envoy made the status.
-- REST: RFC 9457 application/problem+json, made of the google.rpc.Status that the transcoder wrote, or of Envoy's text.
-- It decides nothing. `REFUSALS` and `TITLES` stand before this text: generate.py writes them from errors.proto.

local FILTER = "envoy.filters.http.lua"
local GRPC_ONLY = { "grpc-status", "grpc-message", "grpc-status-details-bin" }
local MILLISECONDS = { n = 1e-6, u = 1e-3, m = 1, S = 1000, M = 60000, H = 3600000 }
local SPOOFABLE = { "x-auth-", "x-florin-", "x-jwt-" }
-- Larger than a payment; what a connection can have kept for its unknown caller stays about 1 MiB (256 streams).
local SMALL_BODY_BYTES = 4096

function envoy_on_request(handle)
  local headers = handle:headers()
  local doomed = {}
  for name, _ in pairs(headers) do
    for _, prefix in ipairs(SPOOFABLE) do
      if string.sub(name, 1, #prefix) == prefix then doomed[#doomed + 1] = name end
    end
  end
  for _, name in ipairs(doomed) do headers:remove(name) end
  local content = headers:get("content-type") or ""
  local kind = "rest"
  if string.find(content, "^application/grpc%-web") then
    kind = "grpc-web"
  elseif string.find(content, "^application/grpc") then
    kind = "grpc"
  end
  handle:streamInfo():dynamicMetadata():set(FILTER, "kind", kind)
  local timeout = headers:get("grpc-timeout")
  local amount, unit = string.match(timeout or "", "^(%d%d?%d?%d?%d?%d?%d?%d?)([numSMH])$")
  if amount then
    local deadline = handle:timestamp() + tonumber(amount) * MILLISECONDS[unit]
    handle:streamInfo():dynamicMetadata():set(FILTER, "deadline", deadline)
  elseif timeout then
    headers:remove("grpc-timeout")  -- it says nothing; a service's gRPC library would answer it with INTERNAL
  end
  -- A small request is judged when it is all there. Refused earlier, it would be answered and its stream closed while
  -- the caller still sends, which HTTP/2 allows (NO_ERROR) and curl 7.88 (Debian 12) takes for a broken connection.
  local length = tonumber(headers:get("content-length") or "")
  if kind == "rest" and length and length > 0 and length <= SMALL_BODY_BYTES then handle:body() end
end

-- JSON, as little as a google.rpc.Status needs -----------------------------------------------------------------------

local LIST = {}

local function decode(text)
  local at = 1
  local value
  local function space() at = string.find(text, "[^ \t\r\n]", at) or #text + 1 end
  local function utf8(code)
    if code < 0x80 then return string.char(code) end
    if code < 0x800 then return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
    if code < 0x10000 then
      return string.char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
    end
    return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64,
      0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
  end
  local escapes = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }
  local function str()
    local out = {}
    at = at + 1
    while true do
      local stop = string.find(text, '["\\]', at)
      if not stop then error("unfinished string") end
      out[#out + 1] = string.sub(text, at, stop - 1)
      if string.sub(text, stop, stop) == '"' then
        at = stop + 1
        return table.concat(out)
      end
      local letter = string.sub(text, stop + 1, stop + 1)
      if letter == "u" then
        local code = tonumber(string.sub(text, stop + 2, stop + 5), 16)
        at = stop + 6
        if code >= 0xD800 and code < 0xDC00 and string.sub(text, at, at + 1) == "\\u" then
          local low = tonumber(string.sub(text, at + 2, at + 5), 16)
          code = 0x10000 + (code - 0xD800) * 1024 + (low - 0xDC00)
          at = at + 6
        end
        out[#out + 1] = utf8(code)
      else
        out[#out + 1] = escapes[letter] or error("bad escape")
        at = stop + 2
      end
    end
  end
  local function collection(close, read)
    at = at + 1
    space()
    if string.sub(text, at, at) == close then at = at + 1 return end
    while true do
      read()
      space()
      local mark = string.sub(text, at, at)
      at = at + 1
      if mark == close then return end
      if mark ~= "," then error("malformed") end
      space()
    end
  end
  value = function()
    space()
    local first = string.sub(text, at, at)
    if first == '"' then return str() end
    if first == "{" then
      local object = {}
      collection("}", function()
        local key = str()
        space()
        at = at + 1
        object[key] = value()
      end)
      return object
    end
    if first == "[" then
      local list = setmetatable({}, LIST)
      collection("]", function() list[#list + 1] = value() end)
      return list
    end
    local word = string.match(text, "^[%w%+%-%.]+", at)
    if not word then error("malformed") end
    at = at + #word
    if word == "true" then return true end
    if word == "false" then return false end
    if word == "null" then return nil end
    return tonumber(word) or error("malformed")
  end
  return value()
end

local function quote(text)
  return '"' .. string.gsub(text, '[%c"\\]', function(c)
    if c == '"' or c == "\\" then return "\\" .. c end
    return string.format("\\u%04x", string.byte(c))
  end) .. '"'
end

local function encode(value)
  if type(value) == "string" then return quote(value) end
  if type(value) ~= "table" then return tostring(value) end
  local out = {}
  if getmetatable(value) == LIST then
    for _, item in ipairs(value) do out[#out + 1] = encode(item) end
    return "[" .. table.concat(out, ",") .. "]"
  end
  local keys = {}
  for key, _ in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do out[#out + 1] = quote(key) .. ":" .. encode(value[key]) end
  return "{" .. table.concat(out, ",") .. "}"
end

-- Refusals -----------------------------------------------------------------------------------------------------------

local function own_reason(status, text)
  -- What Envoy refused, by its HTTP status and its words.
  if status == 403 then
    return string.find(text, "Audiences in Jwt", 1, true) and "AUDIENCE_WRONG" or "SCOPE_MISSING"
  end
  return REASON_OF_HTTP[status] or (status >= 500 and "UNAVAILABLE" or "REQUEST_INVALID")
end

local function own_grpc_reason(code, text)
  if code == "7" then
    return string.find(text, "Audiences in Jwt", 1, true) and "AUDIENCE_WRONG" or "SCOPE_MISSING"
  end
  if code == "8" and string.find(text, "larger than max", 1, true) then return "REQUEST_INVALID" end
  if string.find(text, "duration timeout", 1, true) then return "DEADLINE_EXCEEDED" end  -- 408 has none in gRPC either
  -- 413 and 400 have no code of their own in gRPC: Envoy says UNKNOWN and INTERNAL.
  if string.find(text, "too long", 1, true) or string.find(text, "too large", 1, true) then return "REQUEST_INVALID" end
  return REASON_OF_GRPC[code]
end

local function retry_seconds(delay)
  local seconds = tonumber((string.gsub(delay or "", "s$", "")))
  return seconds and math.max(1, math.ceil(seconds)) or nil
end

local function problem(status, reason, detail)
  return {
    type = reason and "urn:florin:reason:" .. reason or "about:blank",
    title = TITLES[reason] or "The request was refused.",
    status = status,
    detail = detail,
    reason = reason,
  }
end

local function from_service(status, rpc)
  local made = problem(status, nil, rpc.message)
  local others = setmetatable({}, LIST)
  local retry
  for _, detail in ipairs(rpc.details or {}) do
    local kind = detail["@type"]
    if kind == "type.googleapis.com/google.rpc.ErrorInfo" then
      made.reason = detail.reason
      made.type = "urn:florin:reason:" .. tostring(detail.reason)
      made.title = TITLES[detail.reason] or made.title
      made.metadata = detail.metadata
    elseif kind == "type.googleapis.com/google.rpc.BadRequest" then
      made.violations = setmetatable({}, LIST)
      for _, violation in ipairs(detail.fieldViolations or {}) do
        made.violations[#made.violations + 1] = { field = violation.field or "", description = violation.description }
      end
    elseif kind == "type.googleapis.com/google.rpc.RetryInfo" then
      retry = retry_seconds(detail.retryDelay)
    else
      others[#others + 1] = detail
    end
  end
  if #others > 0 then made.details = others end
  return made, retry
end

local function answer_problem(handle, status)
  local body = handle:body(true)
  local headers = handle:headers()  -- anew: waiting for the body ended the life of the one before
  local text = body and body:getBytes(0, body:length()) or ""
  local made, retry
  local parsed, rpc = pcall(decode, text)
  if parsed and type(rpc) == "table" and type(rpc.code) == "number" then
    made, retry = from_service(status, rpc)
  elseif parsed and type(rpc) == "table" and rpc.type == "about:blank" then
    text = rpc.detail or ""  -- the form that Envoy's local replies have in edge.yaml
  end
  if not made or not made.reason then
    local reason = own_reason(status, made and made.detail or text)
    local refusal = REFUSALS[reason]
    -- Only what is wrong with the request is said in Envoy's words; the rest has one form each.
    -- They may quote bytes of the body that are no text.
    local words = string.gsub(string.sub(text, 1, 300), "[\128-\255]+", "?")
    local detail = reason == "REQUEST_INVALID" and words ~= "" and words or refusal.message
    made = problem(status, reason, detail)
    retry = retry or refusal.retry_seconds
  end
  handle:streamInfo():dynamicMetadata():set(FILTER, "reason", made.reason)
  if retry and not headers:get("retry-after") then headers:add("retry-after", tostring(retry)) end
  for _, name in ipairs(GRPC_ONLY) do headers:remove(name) end
  local bytes = encode(made)
  headers:replace("content-type", "application/problem+json")
  headers:replace("content-length", tostring(#bytes))
  if body then body:setBytes(bytes) end
end

-- Refused before the gRPC-Web filter saw it: what a page's library gets must be gRPC-Web all the same.
local function answer_web(handle, status)
  local reason = own_reason(status, "")
  local refusal = REFUSALS[reason]
  handle:streamInfo():dynamicMetadata():set(FILTER, "reason", reason)
  local body = handle:body(true)
  if body then body:setBytes("") end
  local headers = handle:headers()
  headers:replace(":status", "200")
  headers:replace("content-type", "application/grpc-web+proto")
  headers:replace("content-length", "0")
  headers:replace("grpc-status", tostring(refusal.code))
  headers:replace("grpc-message", refusal.message)
  headers:replace("grpc-status-details-bin", refusal.details)
end

function envoy_on_response(handle)
  local mine = handle:streamInfo():dynamicMetadata():get(FILTER)
  local kind = mine and mine["kind"] or "rest"
  local headers = handle:headers()
  local status = tonumber(headers:get(":status")) or 0
  if kind == "rest" then
    if status >= 400 then
      answer_problem(handle, status)
    else
      for _, name in ipairs(GRPC_ONLY) do headers:remove(name) end
    end
    return
  end
  local code = headers:get("grpc-status")
  if code == nil and kind == "grpc-web" and status >= 400 then answer_web(handle, status) return end
  if code == nil or code == "0" or headers:get("grpc-status-details-bin") then return end
  local reason = own_grpc_reason(code, headers:get("grpc-message") or "")
  -- A service breaks a call off at its deadline, which looks like its loss. But the call may have been done: a caller
  -- who is told that nothing was would be told wrong. The clocks of the two differ by a millisecond or so.
  local deadline = mine and mine["deadline"]
  if reason == "UNAVAILABLE" and deadline and handle:timestamp() + 2 >= deadline then reason = "DEADLINE_EXCEEDED" end
  local refusal = reason and REFUSALS[reason]
  if not refusal then return end
  handle:streamInfo():dynamicMetadata():set(FILTER, "reason", reason)
  if kind == "grpc-web" then headers:replace(":status", "200") end
  headers:replace("grpc-status", tostring(refusal.code))
  headers:replace("grpc-message", refusal.message)
  headers:replace("grpc-status-details-bin", refusal.details)
end
