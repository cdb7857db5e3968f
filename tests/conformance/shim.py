"""A proxy that adds a bearer token to every request: the conformance suite sends none, and staithe asks for one.

usage: shim.py UPSTREAM_HOST:PORT   (the token stands in SHIM_TOKEN; prints `listening http://127.0.0.1:PORT`)

Only request heads are read. Everything else, streams included, is passed on byte by byte, and either end's close closes the other, so that
what the suite sees is what staithe did. Where the suite names this proxy in Host or Origin, the proxy names staithe; foreign names stay.
"""

import asyncio
import os
import signal
import sys

HEAD_BYTES = 64 * 1024
PIECE = 64 * 1024


def rewritten(head, mine, upstream, token):
    """The request head with a token and with staithe's own address, and the length of the body that follows."""
    lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept, length = [lines[0]], 0
    for line in lines[1:]:
        name = line.partition(b":")[0].strip().lower()
        if name == b"transfer-encoding":
            raise ValueError("a chunked request body is not supported")
        if name == b"content-length":
            length = int(line.partition(b":")[2])
        if name in (b"host", b"origin"):
            line = line.replace(mine, upstream)
        if name != b"authorization":
            kept.append(line)
    kept.append(b"Authorization: Bearer " + token)
    return b"\r\n".join(kept) + b"\r\n\r\n", length


async def requests(reader, writer, mine, upstream, token):
    while True:
        head, length = rewritten(await reader.readuntil(b"\r\n\r\n"), mine, upstream, token)
        writer.write(head)
        while length:
            piece = await reader.read(min(length, PIECE))
            if not piece:
                return
            length -= len(piece)
            writer.write(piece)
            await writer.drain()
        await writer.drain()


async def answers(reader, writer):
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()


async def serve_one(reader, writer, upstream, token):
    mine = b"127.0.0.1:%d" % writer.get_extra_info("sockname")[1]
    host, port = upstream.rsplit(":", 1)
    try:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
    except OSError:
        writer.close()
        return
    ways = [
        asyncio.create_task(requests(reader, far_writer, mine, upstream.encode(), token)),
        asyncio.create_task(answers(far_reader, writer)),
    ]
    done, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in left:
        way.cancel()
    far_writer.close()
    writer.close()
    for way in done:
        error = way.exception()
        if error and not isinstance(error, (asyncio.IncompleteReadError, ConnectionError)):
            print(f"shim: {error!r}", file=sys.stderr, flush=True)


async def main():
    upstream, token = sys.argv[1], os.environ["SHIM_TOKEN"].encode()
    server = await asyncio.start_server(lambda r, w: serve_one(r, w, upstream, token), "127.0.0.1", 0, limit=HEAD_BYTES)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


asyncio.run(main())
