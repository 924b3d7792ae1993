"""A call whose message never arrives is refused at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from keyahead.service.errors import MalformedMessage, problem_of, to_status
from keyahead.service.interceptors import Base, CallInterceptor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyahead.service.interceptors import Context, Handler


class WholeMessage(Base):
    """The outermost interceptor: refuses a call of ours that ends without a message or inside it, as a wrong length of a frame makes it.

    Where one message is expected, grpc itself sends such a client nothing (grpcio 1.85.1). So the message is read as those of a stream are.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by grpc for each call."""
        handler = await continuation(handler_call_details)
        path = str(handler_call_details.method)
        if not handler or handler.request_streaming or not path.startswith(CallInterceptor.prefix):
            return handler
        if path not in self._handlers:
            self._handlers[path] = _reading(handler)
        return self._handlers[path]


def _reading(handler: Handler) -> Handler:
    behaviour: Any = handler.unary_stream or handler.unary_unary

    async def call(_: Any, context: Context) -> Any:
        raw = await context.read()
        if raw is grpc.aio.EOF:  # type: ignore[attr-defined]  # grpc-stubs lacks it
            return await context.abort_with_status(to_status(problem_of(MalformedMessage())))  # type: ignore[attr-defined]  # and this
        return await behaviour(raw, context)

    build = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    return build(call, response_serializer=handler.response_serializer)
