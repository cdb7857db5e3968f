"""A server built with the official Python SDK (`mcp`), which speaks the era that its client opens with.

Its tools ask the client for everything that a server may ask for, and change what others may watch.
"""

from typing import Annotated

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import CreateMessageResult, ListRootsResult, SamplingMessage, TextContent
from pydantic import BaseModel

server = MCPServer("interop-py-server")


class User(BaseModel):
    name: str


def ask_the_user() -> Elicit[User]:
    return Elicit("Your name?", User)


def ask_the_model() -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text="Say it."))], max_tokens=100)


def ask_for_roots() -> ListRoots:
    return ListRoots()


@server.tool()
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool("ask-user")
def ask_user(user: Annotated[User, Resolve(ask_the_user)]) -> str:
    return f"user: {user.name}"


@server.tool("ask-model")
def ask_model(answer: Annotated[CreateMessageResult, Resolve(ask_the_model)]) -> str:
    return f"model: {answer.content}"


@server.tool("ask-roots")
def ask_roots(found: Annotated[ListRootsResult, Resolve(ask_for_roots)]) -> str:
    return f"roots: {[str(root.uri) for root in found.roots]}"


@server.resource("note://watched")
def watched() -> str:
    return "Look."


@server.tool()
async def touch(context: Context) -> str:
    await context.notify_resource_updated("note://watched")
    return "touched"


@server.tool()
async def grow(context: Context) -> str:
    await context.notify_tools_changed()
    return "grown"


server.run("stdio")
