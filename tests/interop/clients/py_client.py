"""The official Python SDK (`mcp`) as a client, in either era.

usage: python py_client.py '{"url":…,"token":…,"era":"legacy"|"modern","tool":…,"arguments":{…}}'
Prints one JSON line: {"ok":true,"protocol","tools","text","isError"} or {"ok":false,"status","error"}.
"""

import asyncio
import json
import sys

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client


async def talk(plan, statuses):
    headers = {"Authorization": f"Bearer {plan['token']}"} if plan.get("token") else {}

    async def note(response):
        statuses.append(response.status_code)

    http = httpx2.AsyncClient(headers=headers, timeout=30, event_hooks={"response": [note]})
    async with http:
        transport = streamable_http_client(plan["url"], http_client=http)
        mode = "legacy" if plan["era"] == "legacy" else "2026-07-28"
        async with Client(transport, mode=mode, read_timeout_seconds=30) as client:
            tools, cursor = [], None
            while True:
                page = await client.list_tools(cursor=cursor)
                tools += [tool.name for tool in page.tools]
                cursor = page.next_cursor
                if not cursor:
                    break
            result = await client.call_tool(plan["tool"], plan["arguments"])
            words = [part.text for part in result.content if part.type == "text"]
            return {
                "ok": True,
                "protocol": client.session.protocol_version,
                "tools": tools,
                "text": "\n".join(words),
                "isError": bool(result.is_error),
            }


def why(error):
    """The innermost errors of a task group, on one line."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(why(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


def main():
    plan = json.loads(sys.argv[1])
    # The SDK turns an HTTP error into a JSON-RPC error of its own, so the status is read off the wire.
    statuses = []
    try:
        report = asyncio.run(talk(plan, statuses))
    except Exception as error:  # every failure is a report: the driver decides what was expected
        refused = [status for status in statuses if status >= 400]
        report = {"ok": False, "status": refused[0] if refused else None, "error": why(error)}
    print(json.dumps(report))


main()
