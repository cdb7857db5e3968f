// The official TypeScript SDK as a client: `@modelcontextprotocol/client` (v2, both eras) or `@modelcontextprotocol/sdk` (v1, legacy only).
//
// usage: node ts_client.mjs v1|v2 '{"url":…,"token":…,"era":"legacy"|"modern","tool":…,"arguments":{…}}'
// Prints one JSON line: {"ok":true,"protocol","tools","text","isError"} or {"ok":false,"status","error"}.
// Packages are found from the working directory, which the driver sets: no node_modules lives in the tree.

import { createRequire } from "node:module";
import { join } from "node:path";

const [line, text] = process.argv.slice(2);
const plan = JSON.parse(text);
const require = createRequire(join(process.cwd(), "package.json"));
const who = { name: `interop-ts-${line}`, version: "1.0.0" };

function open() {
  if (line === "v2") {
    const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
    const mode = plan.era === "modern" ? { pin: "2026-07-28" } : "legacy";
    return [new Client(who, { versionNegotiation: { mode } }), StreamableHTTPClientTransport];
  }
  if (plan.era !== "legacy") throw new Error("v1 of the SDK speaks the legacy era only");
  const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
  return [new Client(who, { capabilities: {} }), StreamableHTTPClientTransport];
}

async function talk() {
  const [client, Transport] = open();
  const headers = plan.token ? { Authorization: `Bearer ${plan.token}` } : {};
  const transport = new Transport(new URL(plan.url), { requestInit: { headers } });
  await client.connect(transport);
  try {
    const tools = [];
    let cursor;
    do {
      const page = await client.listTools(cursor ? { cursor } : {});
      tools.push(...page.tools.map((tool) => tool.name));
      cursor = page.nextCursor;
    } while (cursor);
    const result = await client.callTool({ name: plan.tool, arguments: plan.arguments });
    const protocol =
      line === "v2" ? client.getNegotiatedProtocolVersion() : transport.protocolVersion;
    const words = result.content.filter((part) => part.type === "text").map((part) => part.text);
    if (transport.sessionId) await transport.terminateSession();
    return { ok: true, protocol, tools, text: words.join("\n"), isError: result.isError === true };
  } finally {
    await client.close();
  }
}

// An HTTP status is a number field of the error or of one of its causes; the two lines of the SDK name it differently.
function statusOf(error) {
  for (let at = error, depth = 0; at && depth < 8; at = at.cause ?? at.data?.cause, depth += 1) {
    for (const value of [at.status, at.code, at.data?.status]) {
      if (Number.isInteger(value) && value >= 400 && value < 600) return value;
    }
  }
  const said = /\b(?:HTTP |status )(\d{3})\b/.exec(String(error));
  return said ? Number(said[1]) : null;
}

let report;
try {
  report = await talk();
} catch (error) {
  report = { ok: false, status: statusOf(error), error: `${error?.name}: ${error?.message}` };
}
process.stdout.write(JSON.stringify(report) + "\n");
