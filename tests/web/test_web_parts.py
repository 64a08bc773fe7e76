"""Parts of the page that need no Gradio: the files it offers, and whom it answers."""

import asyncio

import pytest

from co_detr.web.saving import KEPT, LastFiles
from co_detr.web.server import ForThisMachine, is_loopback


def names(folder):
    return sorted(path.name for path in folder.rglob("*.json"))


def test_of_the_files_to_save_the_last_are_kept(tmp_path):
    files = LastFiles(tmp_path)
    first = files.write("a.json", "a")
    for number in range(KEPT):
        files.write(f"{number}.json", f"vögel {number}")
        assert files.write("a.json", "a") == first  # is the last one again
    assert names(tmp_path) == sorted([*(f"{n}.json" for n in range(1, KEPT)), "a.json"])
    assert len(list(tmp_path.iterdir())) == KEPT  # folders
    assert files.write("0.json", "vögel 0").read_bytes() == "vögel 0".encode()


def test_files_that_somebody_else_has_removed_are_written_anew(tmp_path):
    files = LastFiles(tmp_path)
    for number in range(KEPT):
        files.write(f"{number}.json", str(number)).unlink()
    assert files.write("0.json", "0").is_file()
    for number in range(KEPT, 2 * KEPT):
        files.write(f"{number}.json", str(number))
    assert len(list(tmp_path.iterdir())) == len(names(tmp_path)) == KEPT


@pytest.mark.parametrize(
    "host, answer",
    [
        (b"127.0.0.1:7860", 200),
        (b"127.0.0.2", 200),
        (b"localhost:7860", 200),
        (b"LocalHost", 200),
        (b"[::1]:7860", 200),
        (b"elsewhere.example:7860", 400),  # may lead to this machine nevertheless
        (b"localhost.elsewhere.example", 400),
        (b"192.0.2.1", 400),
        (b"[::1", 400),
        (b"\xff", 400),
        (None, 400),
    ],
)
def test_requests_by_foreign_names_are_refused(host, answer):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    headers = [] if host is None else [(b"host", host)]
    asyncio.run(ForThisMachine(app)({"type": "http", "headers": headers}, None, send))
    assert sent[0]["status"] == answer


def test_addresses_of_this_machine_alone():
    hosts = [
        "127.0.0.1",
        "127.0.1.1",
        "::1",
        "localhost",
        "0.0.0.0",
        "::",
        "192.0.2.1",
        "a.example",
    ]
    assert [host for host in hosts if is_loopback(host)] == hosts[:4]
