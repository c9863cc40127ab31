"""Request bodies: JSON parsed in one place, from the bytes that the middleware has read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json


class JSONRequest(Request):
    """A request whose body the middleware has read already."""

    async def body(self) -> bytes:
        """Return the body."""
        return self.state.body  # type: ignore[no-any-return]

    async def json(self) -> Any:
        """Parse the body, strictly: neither NaN nor half of a surrogate pair is JSON."""
        try:
            return from_json(self.state.body, allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from error


class JSONRoute(APIRoute):
    """A route that reads its body as a :class:`JSONRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler for another class of requests."""
        handle_request = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handle_request(JSONRequest(request.scope, request.receive))

        return handle
