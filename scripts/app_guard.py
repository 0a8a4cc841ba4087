"""What stands before the server of scripts/app.py: no uploads to disk, no large requests, no other hosts."""

from collections.abc import Awaitable, Callable, MutableMapping

Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# The browser loads from this server alone. The page's own scripts need the two exceptions.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware: refuses what would write to disk or take much memory, and adds headers.

    Args:
        most_bytes: of the body of a request.
    """

    def __init__(self, app: Callable, *, most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: MutableMapping, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if "upload" in scope["path"].split("/"):
            await _refuse(send, 403, b"pictures are taken by the page alone, which keeps them in memory")
            return
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        is_known = len(lengths) == 1 and lengths[0].isdigit()
        if scope["method"] == "POST" and (not is_known or int(lengths[0]) > self.most_bytes):
            await _refuse(
                send, 413 if is_known else 411, b"the request is too large, or does not say how large"
            )
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_headers)


async def _refuse(send: Send, status: int, reason: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(reason)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason})
