"""Serves the page by uvicorn, at addresses that were asked for, and without a word to others."""

import ipaddress
import os
import socket
from typing import Any
from urllib.parse import urlsplit

MAX_UPLOAD = "50mb"

# Whatever Gradio puts into its pages, browsers get nothing for it from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)


def prepare_gradio(folder: str | os.PathLike) -> None:
    """Import Gradio as one that reports to nobody and keeps its files in `folder`.

    Raises:
        ImportError: it, or what draws, is missing; names the extra.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = os.fspath(folder)
    try:
        import gradio  # noqa: F401
        import matplotlib  # noqa: F401
        import supervision  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}: the page needs pip install 'co-detr[web]'") from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        OSError: the port is taken, or the host is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise OSError(
            f"cannot serve at {host}, port {port}: {reason}; choose others with --host and --port "
            "(0 takes a free one)"
        ) from error


def address(listening: socket.socket) -> str:
    """Where a browser on this machine finds what listens at a socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it by an address, or by the name "localhost"."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def application(page: Any, look: dict[str, Any], host: str) -> Any:
    """The page as an ASGI application.

    Requests by a foreign name that leads to this machine, by which foreign pages get at what is
    meant for this machine alone, are refused.

    Args:
        page: Gradio's blocks.
        look: `theme` and `css` for Gradio.
        host: the address where it will be served.
    """
    import gradio
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_WithPolicy)
    if is_loopback(host):
        app.add_middleware(ForThisMachine)
    return gradio.mount_gradio_app(
        app,
        page,
        path="",
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        **look,
    )


def server_of(app: Any) -> Any:
    """What serves an application: `run(sockets=[...])` does until the process is told to end."""
    import uvicorn

    # browsers keep connections open, which an end would wait for
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))


class ForThisMachine:
    """Refuses requests to an application by other names than this machine has for itself.

    Starlette's own check of names takes "[" for the name in "[::1]:7860".
    """

    REFUSAL = (
        b"This page is for the machine it is served at: open it at localhost there, or serve it "
        b"to others by --host.\n"
    )

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or is_loopback(_name_asked_for(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": self.REFUSAL})


def _name_asked_for(scope: Any) -> str:
    """The name in the Host header of a request, without the port; "" without one."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # no end of a "["
        return ""


class _WithPolicy:
    """Adds `POLICY` to the headers of all that an application sends."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = message | {"headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self.app(scope, receive, send_with_policy)
