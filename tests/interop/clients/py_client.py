"""The official Python SDK (`mcp`) as a client, in either era.

usage: python py_client.py PLAN      (what a plan and a report are: ../run.py)
"""

import asyncio
import contextlib
import json
import sys

import anyio
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ResourcesListChanged, ResourceUpdated, ToolsListChanged

EVENTS = {
    ResourceUpdated: "notifications/resources/updated",
    ResourcesListChanged: "notifications/resources/list_changed",
    ToolsListChanged: "notifications/tools/list_changed",
}


def answering(answer, root):
    """Whoever is asked answers with the text of the plan: the user, the model, the list of roots."""
    if not answer:
        return {}

    async def user(_context, _params):
        return types.ElicitResult(action="accept", content={"name": answer})

    async def model(_context, _params):
        return types.CreateMessageResult(model="none", role="assistant", content=types.TextContent(type="text", text=answer))

    async def roots(_context):
        return types.ListRootsResult(roots=[types.Root(uri=root, name="root")])

    return {"elicitation_callback": user, "sampling_callback": model, "list_roots_callback": roots}


@contextlib.asynccontextmanager
async def transport_of(plan, statuses):
    headers = {"Authorization": f"Bearer {plan['token']}"} if plan.get("token") else {}

    async def note(response):
        statuses.append(response.status_code)

    def http(headers=headers, timeout=30, auth=None):
        return httpx2.AsyncClient(headers=headers, timeout=timeout, auth=auth, event_hooks={"response": [note]})

    if plan["transport"] == "sse":
        yield sse_client(plan["url"], headers=headers, httpx_client_factory=http)
    else:
        async with http() as client:
            yield streamable_http_client(plan["url"], http_client=client)


@contextlib.asynccontextmanager
async def watching(client, plan, heard):
    """Subscribed for the length of the block. What is heard on a legacy connection, the client's message handler notes."""
    if not plan.get("watch"):
        yield
    elif plan["era"] == "legacy":
        await client.subscribe_resource(plan["watch"]["uri"])
        yield
    else:
        uri = plan["watch"]["uri"]
        async with client.listen(tools_list_changed=True, resources_list_changed=True, resource_subscriptions=[uri]) as events:

            async def collect():
                async for event in events:
                    heard.add(EVENTS.get(type(event), str(event)))

            collector = asyncio.create_task(collect())
            yield
            collector.cancel()


async def talk(plan, statuses, reports):
    """Puts what it learned into `reports`: what goes wrong while the client closes comes after that."""
    heard = set()

    async def note(message):
        if method := getattr(message, "method", None):
            heard.add(method)

    async with transport_of(plan, statuses) as transport:
        mode = "legacy" if plan["era"] == "legacy" else "2026-07-28"
        async with Client(transport, mode=mode, read_timeout_seconds=30, message_handler=note, **answering(plan.get("answer"), plan.get("roots"))) as client:
            tools, cursor = [], None
            while True:
                page = await client.list_tools(cursor=cursor)
                tools += [tool.name for tool in page.tools]
                cursor = page.next_cursor
                if not cursor:
                    break
            async with watching(client, plan, heard):
                results = [await client.call_tool(call["tool"], call["arguments"]) for call in plan["calls"]]
                wanted = set((plan.get("watch") or {}).get("wanted", []))
                for _ in range(100):
                    if wanted <= heard:
                        break
                    await asyncio.sleep(0.1)
            reports.append({
                "ok": True,
                "protocol": client.session.protocol_version,
                "tools": tools,
                "texts": ["\n".join(part.text for part in result.content if part.type == "text") for result in results],
                "isError": any(result.is_error for result in results),
                "heard": sorted(heard),
            })


def why(error):
    """The innermost errors of a task group, on one line."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(why(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


def closing_race(error):
    """The SDK's own, of `sse_client`: a notification that comes while it closes breaks it, because nobody reads its messages any more."""
    if isinstance(error, BaseExceptionGroup):
        return all(closing_race(inner) for inner in error.exceptions)
    return isinstance(error, anyio.BrokenResourceError)


def main():
    plan = json.loads(sys.argv[1])
    # The SDK turns an HTTP error into a JSON-RPC error of its own, so the status is read off the wire.
    statuses, reports = [], []
    try:
        asyncio.run(talk(plan, statuses, reports))
    except Exception as error:  # every failure is a report: the driver decides what was expected
        if not (reports and plan["transport"] == "sse" and closing_race(error)):
            refused = [status for status in statuses if status >= 400]
            reports = [{"ok": False, "status": refused[0] if refused else None, "error": why(error)}]
    print(json.dumps(reports[-1]))


main()
