"""The page of a detector with random weights, served to this machine for the time of a module."""

import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from lively import lively_detector


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`url` of the page; `runs`, which grows by an image for each that goes through the model."""
    pytest.importorskip("gradio", reason="needs Gradio: make test-web")
    from co_detr.web.server import address, application, listen, prepare_gradio, server_of

    folder = tmp_path_factory.mktemp("uploads")
    before = dict(os.environ)
    prepare_gradio(folder)
    from co_detr.web.page import build_page, look_of_page
    from co_detr.web.viewer import Viewer

    viewer = Viewer(lively_detector(tmp_path_factory.mktemp("model")))
    runs = []
    viewer.detector.model.register_forward_pre_hook(lambda _, args: runs.extend(args[0]))
    page = build_page(viewer, "model.pth", 0.5, folder)
    server = server_of(application(page, look_of_page(), "127.0.0.1"))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield SimpleNamespace(url=address(listening), runs=runs, viewer=viewer, folder=folder)
        server.should_exit = True
        thread.join(timeout=20)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]
