// Loaded before a published HTTP server that listens on every address: it listens on 127.0.0.1 alone.

import net from "node:net";

const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (port, ...rest) {
  const named = typeof rest[0] === "string" || typeof port === "object";
  return named ? listen.call(this, port, ...rest) : listen.call(this, port, "127.0.0.1", ...rest);
};
