// Node's HTTP, as a server and as a client, in version 1 or 2 without TLS.
//
//   node ends.mjs serve VERSION PORT
//   node ends.mjs ask VERSION ORIGIN CASE    says in JSON what it has seen
//
// The server takes what a client that waits for 100 sends: /refuse is answered 417 without one.
// The others are answered after 103 with what came, and trailers that say how it ended.

import { createHash } from "node:crypto";
import http from "node:http";
import http2 from "node:http2";

const BODY = Buffer.alloc(200_000, "0123456789");
const PATIENCE_MS = 20_000;

function digestOf(pieces) {
  const hash = createHash("sha256");
  pieces.forEach((piece) => hash.update(piece));
  return hash.digest("hex");
}

function serve(version, port) {
  const respond = (request, response) => {
    const pieces = [];
    if (request.url === "/hints") {
      response.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" });
    }
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      const headers = { "x-version": request.httpVersion };
      if (version === "1") headers.trailer = "x-digest, x-came";
      response.writeHead(200, headers);
      response.write("well");
      response.addTrailers({
        "x-digest": digestOf(pieces),
        "x-came": request.trailers["x-sent"] ?? "nothing",
      });
      response.end();
    });
  };
  const answerWaiting = (request, response) => {
    if (request.url === "/refuse") {
      response.writeHead(417, { "content-length": "0" });
      response.end();
    } else {
      response.writeContinue();
      respond(request, response);
    }
  };
  const server = (version === "2" ? http2 : http).createServer(respond);
  server.on("checkContinue", answerWaiting);
  server.listen(Number(port), "127.0.0.1");
}

// What is done in either version: "wait" for 100 before the body, "refuse" it, "hints" before the
// answer, "trailers" behind the body.
const PATHS = { wait: "/wait", refuse: "/refuse", hints: "/hints", trailers: "/trailers" };

function report(seen, end) {
  console.log(JSON.stringify(seen));
  end();
}

function askOld(origin, what) {
  const seen = { interim: [], sent: "nothing", trailers: {} };
  const headers = what === "hints" ? {} : { "transfer-encoding": "chunked", te: "trailers" };
  if (what === "wait" || what === "refuse") headers.expect = "100-continue";
  if (what === "trailers") headers.trailer = "x-sent";
  const method = what === "hints" ? "GET" : "POST";
  const request = http.request(`http://${origin}${PATHS[what]}`, { method, headers });
  const send = () => {
    seen.sent = digestOf([BODY]);
    request.write(BODY);
    if (what === "trailers") request.addTrailers({ "x-sent": "all of it" });
    request.end();
  };
  request.on("continue", () => { seen.interim.push(100); send(); });
  request.on("information", (information) => {
    if (information.statusCode !== 100) seen.interim.push(information.statusCode);
  });
  request.on("response", (response) => {
    seen.status = response.statusCode;
    seen.version = response.headers["x-version"];
    response.on("data", (piece) => { seen.body = (seen.body ?? "") + piece; });
    response.on("end", () => {
      seen.trailers = { ...response.trailers };
      report(seen, () => process.exit(0));
    });
  });
  if (what === "trailers") send();
  else if (what === "hints") request.end();
  else request.flushHeaders();
}

function askNew(origin, what) {
  const seen = { interim: [], sent: "nothing", trailers: {} };
  const session = http2.connect(`http://${origin}`);
  const headers = { ":path": PATHS[what], ":method": what === "hints" ? "GET" : "POST" };
  if (what !== "hints") headers.te = "trailers";
  if (what === "wait" || what === "refuse") headers.expect = "100-continue";
  const stream = session.request(headers, {
    endStream: what === "hints",
    waitForTrailers: what === "trailers",
  });
  const send = () => {
    seen.sent = digestOf([BODY]);
    stream.end(BODY);
  };
  stream.on("wantTrailers", () => stream.sendTrailers({ "x-sent": "all of it" }));
  stream.on("continue", () => { seen.interim.push(100); send(); });
  stream.on("headers", (interim) => {
    if (interim[":status"] !== 100) seen.interim.push(interim[":status"]);
  });
  stream.on("response", (response) => {
    seen.status = response[":status"];
    seen.version = response["x-version"];
  });
  stream.on("data", (piece) => { seen.body = (seen.body ?? "") + piece; });
  stream.on("trailers", (trailers) => { seen.trailers = { ...trailers }; });
  stream.on("end", () => report(seen, () => process.exit(0)));
  if (what === "trailers") send();
}

const [role, version, where, what] = process.argv.slice(2);
if (role === "serve") {
  serve(version, where);
} else {
  setTimeout(() => { console.log("nothing has come"); process.exit(1); }, PATIENCE_MS);
  (version === "2" ? askNew : askOld)(where, what);
}
