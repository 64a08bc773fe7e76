"""The page without a browser: what it answers, to whom, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from lively import HEIGHT, WIDTH, save_picture
from trained import trained

from co_detr.cli import main

ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "words, message",
    [
        (["--port", "70000"], "70000 is not between 0 and 65535"),
        (["--threshold", "50"], "50.0 is not between 0 and 1"),
        (["--config-file", "co_dino_r51"], "no model 'co_dino_r51'"),
    ],
)
def test_options_without_a_meaning(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["web", "model.pth", *words])
    written = capsys.readouterr().err
    assert stopped.value.code == 2 and message in written and written.count("\n") == 1


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["web", "model.pth"]) == 1
    written = capsys.readouterr().err
    assert "the page needs pip install 'co-detr[web]'" in written and written.count("\n") == 1


@pytest.mark.parametrize("words", [["--host", "192.0.2.1"], []])
def test_an_address_that_cannot_be_had_is_said_before_a_model_is_read(words, taken_port, capsys):
    pytest.importorskip("gradio", reason="needs Gradio: make test-web")
    assert main(["web", "absent.pth", "--port", str(taken_port), *words]) == 1
    written = capsys.readouterr().err
    assert re.search(rf"cannot serve at [\d.]+, port {taken_port}: \w.*; choose others", written)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(number, tmp_path):
    pytest.importorskip("gradio", reason="needs Gradio: make test-web")
    import httpx

    (tmp_path / "tmp").mkdir()
    words = [sys.executable, "-m", "co_detr", "web", str(trained(tmp_path)), "--port", "0"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            opened = next(line for line in process.stdout if line.startswith("Open "))
            url = opened.split()[1]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
            with open(save_picture(tmp_path / "a.png"), "rb") as file:
                uploaded = httpx.post(f"{url}/gradio_api/upload", files={"files": file}).json()
            assert Path(uploaded[0]).is_relative_to(tmp_path / "tmp")
        finally:
            process.send_signal(number)
        assert process.wait(120) == 128 + number
    assert not any(path.name.startswith("co_detr") for path in (tmp_path / "tmp").iterdir())


# ------------------------------------------------------------------------- its answers


@pytest.fixture
def answers(served, tmp_path):
    from co_detr.web.page import Answers

    (tmp_path / "saved").mkdir()
    return Answers(served.viewer, tmp_path / "saved")


def test_a_picture_is_answered_with_all_that_the_page_shows(answers, tmp_path):
    path = save_picture(tmp_path / "a.png")
    status, drawn, rows, saved = answers.show(path, 0.5, "matching", "")
    count = len(rows)
    assert count > 0 and status.startswith(f"**{count} object")
    assert f"a score of 0.50 or more; 40 with 0.05 or more. {WIDTH} x {HEIGHT} pixels" in status
    assert drawn.shape[1] / drawn.shape[0] == WIDTH / HEIGHT
    content = json.loads(Path(saved.value["path"]).read_text())
    assert len(content["annotations"]) == count and content["images"][0]["file_name"] == "a.png"
    assert all(row[1] >= 0.5 for row in rows)


def test_without_a_picture_there_is_nothing(answers, tmp_path):
    from co_detr.web.page import WELCOME

    status, drawn, rows, saved = answers.show(None, 0.5, "matching", "")
    assert (status, drawn, rows, saved.interactive) == (WELCOME, None, [], False)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    status, drawn, rows, saved = answers.show(str(tmp_path / "b.jpg"), 0.5, None, None)
    assert status == ("**This file cannot be shown:** no picture of a kind that Pillow knows.")
    assert (drawn, rows, saved.interactive) == (None, [], False)


# ------------------------------------------------------------------------- what it serves


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("script", "link", "img", "iframe", "source"):
            self.found += [attrs[key] for key in ("src", "href") if attrs.get(key)]


def test_the_page_loads_nothing_from_elsewhere(served):
    import httpx

    answer = httpx.get(served.url)
    links = Links(answer.text).found
    assert links and not [link for link in links if "//" in link]
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    theme = httpx.get(f"{served.url}/theme.css").text
    assert "@font-face" not in theme and not re.search(r"url\(.?(https?:)?//", theme)
    config = httpx.get(f"{served.url}/config").json()
    assert config["analytics_enabled"] is False and not config.get("is_colab")


def test_only_this_machine_is_answered(served):
    import httpx

    answer = httpx.get(served.url, headers={"host": "elsewhere.example"})
    assert answer.status_code == 400 and "open it at localhost" in answer.text
    assert httpx.get(served.url, headers={"host": "localhost:7860"}).status_code == 200


def ask(url, file, threshold=0.5, branch="matching", heat=""):
    """What the page is told when its controls have these values."""
    import httpx

    data = {"fn_index": 0, "session_hash": "s", "data": [file, threshold, branch, heat]}
    with httpx.Client(base_url=f"{url}/gradio_api", timeout=60) as client:
        client.post("/queue/join", json=data).raise_for_status()
        with client.stream("GET", "/queue/data", params={"session_hash": "s"}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[len("data:") :]) if line else {}
                if message.get("msg") == "process_completed":
                    return message["output"]


def upload(url, path):
    import httpx

    with open(path, "rb") as file:
        answer = httpx.post(f"{url}/gradio_api/upload", files={"files": file})
    return answer


def as_file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_uploads_are_read_and_no_other_file(served, tmp_path):
    path = save_picture(tmp_path / "a.png")
    uploaded = upload(served.url, path).json()[0]
    assert Path(uploaded).is_relative_to(served.folder)
    status, picture, *_ = ask(served.url, as_file(uploaded))["data"]
    assert f"{WIDTH} x {HEIGHT} pixels" in status and picture["path"].endswith(".jpeg")
    runs = len(served.runs)
    for other in (path, f"{served.folder}/../../{path}", f"{served.url}/favicon.ico"):
        assert "only uploaded files are read" in ask(served.url, as_file(other))["error"]
    linked = Path(served.folder) / "link.png"
    linked.symlink_to(path)
    assert "only uploaded files are read" in ask(served.url, as_file(str(linked)))["error"]
    assert len(served.runs) == runs


def test_values_that_no_control_has_are_refused(served, tmp_path):
    uploaded = as_file(upload(served.url, save_picture(tmp_path / "a.png")).json()[0])
    assert "error" in ask(served.url, uploaded, branch="training")
    assert "error" in ask(served.url, uploaded, heat="rcnn")
    assert "error" in ask(served.url, uploaded, threshold=-1)


def test_files_are_served_from_nowhere_else(served):
    import httpx

    for path in (__file__, "/etc/passwd", f"{served.folder}/../../{__file__}"):
        assert httpx.get(f"{served.url}/gradio_api/file={path}").status_code in (403, 404)


def test_an_upload_that_is_too_large_is_refused(served, tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(51 << 20)
    answer = upload(served.url, tmp_path / "large.png")
    assert answer.status_code == 413 and "exceeded maximum allowed size" in answer.text
