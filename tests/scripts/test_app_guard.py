"""What stands before the page's server."""

import asyncio

import pytest

from scripts.app_guard import HEADERS, Guard


def answer(path="/", method="GET", headers=(), most_bytes=100):
    """Status, headers and whether the app behind the guard was reached."""
    sent, reached = [], []

    async def app(scope, receive, send):
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(Guard(app, most_bytes=most_bytes)(scope, None, send))
    return sent[0]["status"], sent[0]["headers"], bool(reached)


@pytest.mark.parametrize("path", ["/upload", "/gradio_api/upload", "/gradio_api/upload/"])
def test_nothing_can_be_uploaded_to_disk(path):
    status, _, is_reached = answer(path, "POST", [(b"content-length", b"10")])
    assert (status, is_reached) == (403, False)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-length", b"100")], 200),
        ([(b"content-length", b"101")], 413),
        ([(b"content-length", b"-1")], 411),
        ([(b"content-length", b"1"), (b"content-length", b"1")], 411),
        ([], 411),
    ],
)
def test_large_requests_are_refused_before_they_are_read(headers, status):
    assert answer("/queue/join", "POST", headers)[::2] == (status, status == 200)


def test_browsers_load_from_this_server_alone():
    status, headers, _ = answer()
    assert status == 200 and headers == [(b"a", b"b"), *HEADERS]
    assert b"default-src 'self'" in dict(headers)[b"content-security-policy"]
    assert b"http" not in dict(headers)[b"content-security-policy"]
