"""An editor at the other end of a session's stream."""

from __future__ import annotations

import asyncio
from typing import Any

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

TEXT = """import math


def area(radius):
    return math.pi * radius * radius + math.sqrt(radius) - math.floor(radius) + 1


print(area(2))
"""
HEAD = TEXT[: TEXT.index("return")]
LINE = TEXT[len(HEAD) : TEXT.index(" + 1") + 4]
TOKEN = "token of acme"
METADATA = (("authorization", f"Bearer {TOKEN}"),)


class Client:
    """One stream and what an editor knows: the version and the cursor's column on its line."""

    def __init__(self, stub: Any, metadata: Any = METADATA) -> None:
        self.call = stub.Session(metadata=metadata)
        self.version = 1
        self.column = 4

    async def send(self, **message: Any) -> None:
        """One message."""
        await self.call.write(pb.SessionRequest(**message))

    async def open(self, text: str = HEAD, **fields: Any) -> None:
        """Open the document, single lines wanted after each edit unless told otherwise."""
        document = pb.Document(path="a.py", split=pb.SplitText(prefix=text, suffix="\n"))
        opened = pb.Open(document_id="d", version=1, document=document)
        opened.MergeFrom(pb.Open(**{"ask_on_edit": True, "mode": pb.MODE_SINGLE_LINE, **fields}))
        await self.send(open=opened)

    async def type(self, text: str) -> None:
        """Insert at the cursor."""
        at = pb.Position(line=4, character=self.column)
        change = pb.Change(range=pb.Range(start=at, end=at), text=text)
        self.version += 1
        self.column += len(text)
        await self.send(edit=pb.Edit(document_id="d", base_version=self.version - 1, version=self.version, changes=[change]))

    async def read(self) -> Any:
        """The next reply, whichever it is."""
        async with asyncio.timeout(10):
            reply = await self.call.read()
        assert isinstance(reply, pb.SessionResponse), "the stream has ended"
        return getattr(reply, str(reply.WhichOneof("message")))

    async def status(self) -> Any:
        """How the stream ended."""
        async with asyncio.timeout(10):
            return await self.call.code()
