"""metrics.json as runs leave it, and as crashes of the machine do."""

import json

import pytest

from co_detr.engine.metrics_file import forget_rows_from, is_evaluated, read_rows


def training(iteration):
    return {"iteration": iteration, "total_loss": 1.5}


def evaluation(iteration):
    return {"iteration": iteration, "bbox/AP": 30.0}


ROWS = [training(1), evaluation(1), training(3), evaluation(4)]
NO_ROWS = [b'{"iteration": 7, "tot', b"\0" * 40, b"\xff\xfe{}", b"[]", b"5", b"{}", b"", b"null"]


@pytest.fixture
def write(tmp_path):
    def written(*lines, end=b"\n"):
        file = tmp_path / "metrics.json"
        lines = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
        file.write_bytes(b"\n".join(lines) + end)
        return file

    return written


def test_what_is_no_row_is_passed_over(write):
    file = write(*ROWS[:2], *NO_ROWS, *ROWS[2:])
    assert list(read_rows(file)) == ROWS
    assert is_evaluated(file, 4) and not is_evaluated(file, 5)


def test_a_file_that_is_not_there_has_no_rows(tmp_path):
    file = tmp_path / "metrics.json"
    assert list(read_rows(file)) == [] and not is_evaluated(file, 0)
    forget_rows_from(str(file), 0)
    assert not file.exists()


def test_training_rows_from_an_iteration_on_are_forgotten_and_evaluations_kept(write):
    file = write(*ROWS[:2], *NO_ROWS, *ROWS[2:])
    forget_rows_from(str(file), 3)
    lines = file.read_text().splitlines()
    assert list(map(json.loads, lines)) == [training(1), evaluation(1), evaluation(4)]


@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_next_row_gets_a_line_of_its_own(write, end):
    file = write(*ROWS, end=end)
    forget_rows_from(str(file), 9)
    with open(file, "a") as stream:
        stream.write(json.dumps(training(9)) + "\n")
    assert list(read_rows(file)) == [*ROWS, training(9)]


def test_a_file_of_rows_that_stay_is_not_written_anew(write):
    file = write(*ROWS)
    before = file.stat().st_ino
    forget_rows_from(str(file), 9)
    assert file.stat().st_ino == before
