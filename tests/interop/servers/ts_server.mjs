// A server of 2026-07-28 and of nothing older, built with the official TypeScript SDK (`@modelcontextprotocol/server`, v2): it answers
// `initialize` with an error. Its tools ask the client for everything that a server may ask for, and change what others may watch.
//
// usage: node ts_server.mjs
// Packages are found from the working directory, as in ../clients/ts_client.mjs.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { McpServer, acceptedContent, createRequestStateCodec, fromJsonSchema, inputRequired, inputResponse } = require("@modelcontextprotocol/server");
const { serveStdio } = require("@modelcontextprotocol/server/stdio");

const WATCHED = "note://watched";
const NAME = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };

const said = (text) => ({ content: [{ type: "text", text }] });
const askUser = (message) => inputRequired.elicit({ message, requestedSchema: NAME });
const askModel = () => {
  const question = { role: "user", content: { type: "text", text: "Say it." } };
  return inputRequired.createMessage({ messages: [question], maxTokens: 100 });
};

function build() {
  const codec = createRequestStateCodec({ key: crypto.getRandomValues(new Uint8Array(32)) });
  const options = { capabilities: { resources: { subscribe: true } }, requestState: { verify: codec.verify } };
  const server = new McpServer({ name: "interop-ts-server", version: "1.0.0" }, options);
  const tool = (name, description, run, properties = {}) => {
    const inputSchema = fromJsonSchema({ type: "object", properties });
    return server.registerTool(name, { description, inputSchema }, run);
  };

  tool("echo", "Answers its message", async ({ message }) => said(`Echo: ${message}`), { message: { type: "string" } });
  tool("ask-user", "Asks the user for a name", async (_args, ctx) => {
    const user = acceptedContent(ctx.mcpReq.inputResponses, "user");
    return user ? said(`user: ${user.name}`) : inputRequired({ inputRequests: { user: askUser("Your name?") } });
  });
  tool("ask-model", "Asks the client's model", async (_args, ctx) => {
    const view = inputResponse(ctx.mcpReq.inputResponses, "model");
    if (view.kind !== "sampling") return inputRequired({ inputRequests: { model: askModel() } });
    return said(`model: ${JSON.stringify(view.result.content)}`);
  });
  tool("ask-roots", "Asks for the roots", async (_args, ctx) => {
    const view = inputResponse(ctx.mcpReq.inputResponses, "roots");
    if (view.kind !== "roots") return inputRequired({ inputRequests: { roots: inputRequired.listRoots() } });
    return said(`roots: ${JSON.stringify(view.roots)}`);
  });
  tool("ask-twice", "Asks two things at once, then a third", async (_args, ctx) => {
    const { inputResponses } = ctx.mcpReq;
    const before = ctx.mcpReq.requestState();
    if (before) return said(`${before.user}, ${before.model}, ${acceptedContent(inputResponses, "again")?.name}`);
    const user = acceptedContent(inputResponses, "user");
    const model = inputResponse(inputResponses, "model");
    if (!user || model.kind !== "sampling") {
      return inputRequired({ inputRequests: { user: askUser("Your name?"), model: askModel() } });
    }
    const state = { user: `user: ${user.name}`, model: `model: ${JSON.stringify(model.result.content)}` };
    return inputRequired({ inputRequests: { again: askUser("Once more?") }, requestState: await codec.mint(state) });
  });

  server.registerResource("watched", WATCHED, { mimeType: "text/plain" }, async () => ({ contents: [{ uri: WATCHED, text: "Look." }] }));
  tool("touch", "Says that the watched resource was updated", async () => {
    await server.server.sendResourceUpdated({ uri: WATCHED });
    return said("touched");
  });
  let grown = 0;
  tool("grow", "Adds a tool", async () => {
    grown += 1;
    tool(`grown-${grown}`, "Was added", async () => said("grown"));
    return said("grown");
  });
  return server;
}

serveStdio(build, { legacy: "reject" });
