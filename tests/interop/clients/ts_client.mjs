// The official TypeScript SDK as a client: `@modelcontextprotocol/client` (v2, both eras) or `@modelcontextprotocol/sdk` (v1, legacy only).
//
// usage: node ts_client.mjs v1|v2 PLAN      (what a plan and a report are: ../run.py)
// Packages are found from the working directory, which the driver sets: no node_modules lives in the tree.

import { createRequire } from "node:module";
import { join } from "node:path";

const [line, text] = process.argv.slice(2);
const plan = JSON.parse(text);
const require = createRequire(join(process.cwd(), "package.json"));
const who = { name: `interop-ts-${line}`, version: "1.0.0" };
const WATCHABLE = ["notifications/resources/updated", "notifications/resources/list_changed", "notifications/tools/list_changed"];

const sdk = line === "v2" ? v2() : v1();

function v2() {
  const all = require("@modelcontextprotocol/client");
  const mode = plan.era === "modern" ? { pin: "2026-07-28" } : "legacy";
  return {
    transports: { http: all.StreamableHTTPClientTransport, sse: all.SSEClientTransport },
    client: (capabilities) => new all.Client(who, { capabilities, versionNegotiation: { mode } }),
    answers: (client, method, answer) => client.setRequestHandler(method, answer),
    hears: (client, method, hear) => client.setNotificationHandler(method, hear),
    call: (client, call, options) => client.callTool(call, options),
    protocol: (client) => client.getNegotiatedProtocolVersion(),
  };
}

function v1() {
  if (plan.era !== "legacy") throw new Error("v1 of the SDK speaks the legacy era only");
  const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const { SSEClientTransport } = require("@modelcontextprotocol/sdk/client/sse.js");
  const types = require("@modelcontextprotocol/sdk/types.js");
  const schemas = {
    "elicitation/create": types.ElicitRequestSchema,
    "sampling/createMessage": types.CreateMessageRequestSchema,
    "roots/list": types.ListRootsRequestSchema,
    "notifications/resources/updated": types.ResourceUpdatedNotificationSchema,
    "notifications/resources/list_changed": types.ResourceListChangedNotificationSchema,
    "notifications/tools/list_changed": types.ToolListChangedNotificationSchema,
  };
  return {
    transports: { http: StreamableHTTPClientTransport, sse: SSEClientTransport },
    client: (capabilities) => new Client(who, { capabilities }),
    answers: (client, method, answer) => client.setRequestHandler(schemas[method], answer),
    hears: (client, method, hear) => client.setNotificationHandler(schemas[method], hear),
    call: (client, call, options) => client.callTool(call, undefined, options),
    protocol: (client, transport) => transport.protocolVersion ?? transport._protocolVersion,
  };
}

// Whoever is asked answers with the text of the plan: the user, the model, the list of roots.
function open() {
  if (!plan.answer) return sdk.client({});
  const client = sdk.client({ elicitation: {}, sampling: {}, roots: {} });
  const content = { type: "text", text: plan.answer };
  sdk.answers(client, "elicitation/create", async () => ({ action: "accept", content: { name: plan.answer } }));
  sdk.answers(client, "sampling/createMessage", async () => ({ model: "none", role: "assistant", content }));
  sdk.answers(client, "roots/list", async () => ({ roots: [{ uri: plan.roots, name: "root" }] }));
  return client;
}

async function talk() {
  const client = open();
  const headers = plan.token ? { Authorization: `Bearer ${plan.token}` } : {};
  const cut = plan.cut ? cutter() : undefined;
  const transport = new sdk.transports[plan.transport](new URL(plan.url), {
    requestInit: { headers },
    fetch: cut?.fetch,
    reconnectionOptions: { initialReconnectionDelay: 50, maxReconnectionDelay: 500, reconnectionDelayGrowFactor: 1, maxRetries: 5 },
  });
  const heard = new Set();
  for (const method of WATCHABLE) sdk.hears(client, method, async () => void heard.add(method));
  await client.connect(transport);
  try {
    const tools = await listed(client);
    if (plan.watch) await watch(client);
    const options = plan.cut ? { onprogress: () => {}, resetTimeoutOnProgress: true } : {};
    const results = [];
    for (const { tool, arguments: given } of plan.calls) results.push(await sdk.call(client, { name: tool, arguments: given }, options));
    const protocol = sdk.protocol(client, transport);
    const missing = () => (plan.watch?.wanted ?? []).filter((method) => !heard.has(method));
    for (let tries = 0; missing().length && tries < 100; tries += 1) await new Promise((done) => setTimeout(done, 100));
    if (transport.sessionId) await transport.terminateSession?.();
    const words = results.map((result) => result.content.filter((part) => part.type === "text").map((part) => part.text).join("\n"));
    const isError = results.some((result) => result.isError === true);
    return { ok: true, protocol, tools, texts: words, isError, heard: [...heard], resumed: cut?.resumed() ?? 0 };
  } finally {
    await client.close();
  }
}

async function listed(client) {
  const tools = [];
  let cursor;
  do {
    const page = await client.listTools(cursor ? { cursor } : {});
    tools.push(...page.tools.map((tool) => tool.name));
    cursor = page.nextCursor;
  } while (cursor);
  return tools;
}

async function watch(client) {
  const { uri } = plan.watch;
  if (plan.era === "modern") {
    await client.listen({ toolsListChanged: true, resourcesListChanged: true, resourceSubscriptions: [uri] });
  } else {
    await client.subscribeResource({ uri });
  }
}

// A network that breaks: the stream of the first tools/call ends in the middle, after its first event with data. Counts the resumptions.
function cutter() {
  let armed = true;
  let resumed = 0;
  const broken = async (input, init) => {
    const headers = new Headers(init?.headers);
    if (headers.has("last-event-id")) resumed += 1;
    const isCall = init?.method === "POST" && String(init.body).includes('"tools/call"');
    if (!armed || !isCall) return fetch(input, init);
    armed = false;
    const quit = new AbortController();
    const response = await fetch(input, { ...init, signal: quit.signal });
    return new Response(upTo(response.body, quit), response);
  };
  return { fetch: broken, resumed: () => resumed };
}

function upTo(body, quit) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let seen = "";
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done) return controller.close();
      controller.enqueue(value);
      seen += decoder.decode(value, { stream: true });
      if (!/^data: ?\{/m.test(seen)) return;
      quit.abort();
      controller.error(new TypeError("the network broke"));
    },
  });
}

// An HTTP status is a number field of the error or of one of its causes; the two lines of the SDK name it differently.
function statusOf(error) {
  for (let at = error, depth = 0; at && depth < 8; at = at.cause ?? at.data?.cause, depth += 1) {
    for (const value of [at.status, at.code, at.data?.status]) {
      if (Number.isInteger(value) && value >= 400 && value < 600) return value;
    }
  }
  const said = /\b(?:HTTP |status(?: code)? )\(?(\d{3})\b/.exec(String(error));
  return said ? Number(said[1]) : null;
}

let report;
try {
  report = await talk();
} catch (error) {
  report = { ok: false, status: statusOf(error), error: `${error?.name}: ${error?.message}` };
}
process.stdout.write(JSON.stringify(report) + "\n");
process.exit(0);
