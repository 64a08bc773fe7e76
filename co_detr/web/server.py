"""Serves the page by uvicorn, at addresses that were asked for, and without a word to others."""

import os
import socket
from typing import Any

MAX_UPLOAD = "50mb"

# Whatever Gradio puts into its pages, browsers get nothing for it from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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


def application(page: Any, look: dict[str, Any], host: str) -> Any:
    """The page as an ASGI application.

    Requests by a foreign name that leads to this machine, by which foreign pages get at what is
    meant for this machine alone, are refused.

    Args:
        page: Gradio's blocks.
        look: `theme` and `css` for Gradio.
        host: where it will be served.
    """
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_WithPolicy)
    if host in LOOPBACK and ":" not in host:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
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
