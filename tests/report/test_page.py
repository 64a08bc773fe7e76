"""The page of an evaluation: its numbers, and that it makes sense whatever was found."""

import contextlib
import copy
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pycocotools.cocoeval
import pytest
from evaluation_problems import problem, without
from PIL import Image
from pycocotools.coco import COCO

from co_detr.evaluation.lvis_api import LVIS, LVISEval, LVISResults
from co_detr.report import command, errors, measures
from co_detr.report.loading import read_problem
from co_detr.report.thresholds import choose

SIDE = 100
# image, category, box as XYWH; image 3 has no objects
OBJECTS = [(1, 7, [10, 10, 20, 10]), (1, 5, [40, 8, 60, 60]), (2, 7, [4, 4, 50, 40])]


def content(names=("ant", "bee"), objects=OBJECTS):
    return {
        "images": [
            {"id": i, "file_name": f"val/{i}.png", "height": SIDE, "width": SIDE} for i in (1, 2, 3)
        ],
        "categories": [{"id": i, "name": n} for i, n in zip((7, 5), names)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for n, (i, c, b) in enumerate(objects, 1)
        ],
    }


def detections(*rows):
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for (i, c, b), s in rows]


@pytest.fixture
def files(tmp_path):
    """Writes annotations, predictions and pictures; returns words of the command line."""

    def write(annotations, predictions):
        (tmp_path / "val").mkdir(exist_ok=True)
        for image in annotations["images"]:
            size = image["width"], image["height"]
            picture = tmp_path / image["file_name"]
            Image.effect_noise(size, 60).convert("RGB").save(picture)
        (tmp_path / "annotations.json").write_text(json.dumps(annotations))
        (tmp_path / "results.json").write_text(json.dumps(predictions))
        words = ["--annotations", tmp_path / "annotations.json"]
        words += ["--predictions", tmp_path / "results.json", "--output", tmp_path / "page.html"]
        return [str(word) for word in words]

    return write


@pytest.fixture
def page(files, tmp_path):
    """Makes a page; returns it read."""

    def make(annotations, predictions, *words, images=True):
        given = files(annotations, predictions)
        if images:
            given += ["--images", str(tmp_path)]
        assert command.main([*given, *words]) == 0
        return Page((tmp_path / "page.html").read_text())

    return make


class Page(HTMLParser):
    """The parts of a page that tests ask for; refuses what is not in the page itself."""

    def __init__(self, text):
        super().__init__()
        self.metrics, self.tables, self.pictures, self.words = {}, [], 0, []
        self.source = text
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag != "link"
        for key in ("src", "href", "xlink:href"):
            assert attrs.get(key, "#").startswith(("#", "data:"))
        if "data-metric" in attrs:
            self.metrics[attrs["data-metric"]] = float(attrs["data-value"])
        self.pictures += tag == "img"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(attrs.get("data-v", ""))

    def handle_data(self, data):
        self.words.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            row = self.tables[-1][-1]
            row[-1] = row[-1] or data.strip()


# ------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_the_numbers_are_those_of_pycocotools(task, files):
    annotations, results = problem(4)
    for annotation in annotations["annotations"]:  # one of 0 is taken for a slip and repaired
        annotation["area"] = max(annotation["area"], 1)
    words = files(annotations, results)
    read = read_problem(*(command_args(words)), iou_type=task)
    run = read.evaluated()
    truth = COCO()
    truth.dataset = copy.deepcopy(annotations)
    with contextlib.redirect_stdout(None):
        truth.createIndex()
        found = truth.loadRes(without(results, "segmentation" if task == "bbox" else "bbox"))
        expected = pycocotools.cocoeval.COCOeval(truth, found, task)
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    stats = [value if value >= 0 else math.nan for value in expected.stats]
    keys = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
    assert measures.summary(run) == pytest.approx(dict(zip(keys, stats)), abs=1e-12, nan_ok=True)
    sizes = measures.by_size(read, run)
    rows = [[row.ap for row in sizes], [row.recall for row in sizes]]
    np.testing.assert_allclose(rows, [[stats[i] for i in (0, 3, 4, 5)], stats[8:]], atol=1e-12)
    precision = expected.eval["precision"][..., 0, -1]
    of_class = measures.by_class(read, run).values()
    assert [row.name for row in of_class] == [
        c["name"] for c in sorted(annotations["categories"], key=lambda c: c["id"])
    ]
    for index, row in enumerate(of_class):
        p = precision[:, :, index]
        means = [q[q > -1].mean() if (q > -1).any() else math.nan for q in (p, p[0], p[5])]
        assert [row.ap, row.ap50, row.ap75] == pytest.approx(means, abs=1e-12, nan_ok=True)


def command_args(words):
    parser = command.argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(words)
    return args.annotations, args.predictions


def test_a_page_shows_what_was_measured(page):
    """One object is found at IoU 0.8 (which counts up to 0.8: 7 of 10), one exactly, one not."""
    found = detections(
        (OBJECTS[0], 0.9), ((2, 7, [4, 4, 40, 40]), 0.8), ((3, 7, [60, 60, 30, 30]), 0.7)
    )
    made = page(content(), found)
    # classes: bee is not found; ant has two of two up to IoU 0.8, then the first of two
    ant = (7 * 1 + 3 * 51 / 101) / 10
    assert made.metrics["AP"] == pytest.approx(ant / 2)
    assert made.metrics["AP50"] == pytest.approx(0.5)
    classes = made.tables[1]
    assert [row[0] for row in classes[1:]] == ["bee", "ant"]
    assert classes[1][1:] == ["1", "0", "0.0", "0.0", "0.0", *["-1"] * 4]
    assert [float(v) for v in classes[2][1:]] == pytest.approx([2, 3, ant, 1, 1, 0.8, 1, 1, 1])
    kinds = {row[0]: row[1:] for row in made.tables[2][1:]}
    assert kinds["missed"][1:] == ["1", "1"] and kinds["background"][1:] == ["1", "0"]
    assert made.pictures == 2  # picture 1 lacks bee, which is also a label never found
    assert "val/1.png 0 wrong, 1 missed, 1 right" in made.text


def test_lvis_is_counted_by_its_own_rules(files, tmp_path):
    annotations, results = problem(7, lvis=True)
    annotations["annotations"] = [
        {k: v for k, v in a.items() if k != "ignore"} | {"iscrowd": 0, "area": max(a["area"], 1)}
        for a in annotations["annotations"]
    ]
    words = files(annotations, results)
    read = read_problem(*command_args(words), rules="lvis")
    truth = LVIS(annotations)
    expected = LVISEval(truth, LVISResults(truth, without(results, "segmentation")), "bbox")
    expected.run()
    summary = measures.summary(read.evaluated())
    for key, value in expected.get_results().items():
        assert summary[key] == pytest.approx(value if value >= 0 else math.nan, nan_ok=True)
    assert command.main([*words, "--rules", "lvis"]) == 0
    made = Page((tmp_path / "page.html").read_text())
    assert "LVIS rules" in made.text and made.metrics["AR@300"] == pytest.approx(summary["AR@300"])


@pytest.mark.parametrize(
    "precision, expected",
    [
        (None, (0.8, 2 / 3, 1, 0.8)),  # equal scores stay together
        (0.9, (0.9, 1, 0.5, 2 / 3)),
        (0.6, (0.8, 2 / 3, 1, 0.8)),
    ],
)
def test_thresholds(precision, expected):
    scores, right = np.array([0.8, 0.9, 0.7, 0.8]), np.array([False, True, False, True])
    chosen = choose(scores, right, 2, precision)
    assert (chosen.score, chosen.precision, chosen.recall, chosen.f1) == pytest.approx(expected)


def test_there_is_not_always_a_threshold():
    one, nothing = np.array([0.5]), np.zeros(0)
    assert choose(nothing, nothing.astype(bool), 3) is None
    assert choose(one, np.array([False]), 3) is None
    assert choose(one, np.array([True]), 0) is None
    assert choose(np.array([0.9, 0.5]), np.array([False, True]), 1, precision=0.9) is None


def test_labels_that_may_be_wrong(files):
    """Image 1: bee is detected as ant. Image 3: an ant without a label. Image 2: one of two objects
    has nothing near it."""
    objects = [*OBJECTS, (2, 7, [60, 60, 30, 30])]
    found = detections(
        (OBJECTS[0], 0.9),
        ((1, 7, OBJECTS[1][2]), 0.8),
        ((3, 7, [60, 60, 30, 30]), 0.7),
        ((3, 7, [5, 5, 10, 10]), 0.2),  # below the threshold
        ((1, 7, [40, 8, 60, 55]), 0.75),  # on the same label again
        ((2, 5, objects[3][2]), 0.1),  # of another class, and unsure
    )
    read = read_problem(*command_args(files(content(objects=objects), found)))
    lists = errors.suspects(read, read.evaluated(), {1: 0.5, 2: 0.5})
    told = {
        key: [(s.image_id, s.label, s.found, s.score, list(s.box)) for s in list_]
        for key, list_ in lists.items()
    }
    assert told == {
        "missing": [(3, None, "ant", 0.7, [60, 60, 30, 30])],
        "class": [(1, "bee", "ant", 0.8, [40, 8, 60, 60])],
        "never found": [(2, "ant", None, None, [4, 4, 50, 40])],
    }


def test_confusions_are_the_most_frequent_pairs_of_classes():
    matrix = np.array([[9, 2, 1, 7], [5, 9, 0, 7], [0, 0, 9, 7], [7, 7, 7, 0]])
    pairs = errors.confusions(matrix, ["a", "b", "c"])
    assert pairs == [("b", "a", 5), ("a", "b", 2), ("a", "c", 1)]


# ----------------------------------------------------------------- whatever was found


def test_perfect_detections(page):
    made = page(content(), detections(*((o, 1.0) for o in OBJECTS)))
    assert made.metrics == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", "AR100"), 1))
    assert {row[1] for row in made.tables[2][1:]} == {"0.0"}  # no error costs anything
    assert "There is no picture with an error." in made.text
    assert "No class was taken for another." in made.text
    assert made.text.count("None.") == 3 and made.pictures == 0


def test_no_detections(page):
    made = page(content(), [])
    assert "nothing was found" in made.text
    assert made.metrics == dict.fromkeys(("AP", "AP50", "AP75", "AR100"), 0)
    assert all(row[6:] == ["-1"] * 4 for row in made.tables[1][1:])
    assert made.pictures == 2 + 3  # two pictures with missed objects, three labels never found


def test_no_objects(page):
    made = page(content(objects=[]), detections((OBJECTS[0], 0.5)))
    assert "there is nothing to find" in made.text
    assert all(math.isnan(value) for value in made.metrics.values())


def test_one_class(page):
    only = [(i, 7, b) for i, _, b in OBJECTS]
    made = page(content(names=("ant",), objects=only), detections((only[0], 0.9)), images=False)
    assert "3 objects of 1 class," in made.text
    assert made.metrics["AP"] == pytest.approx(34 / 101)
    assert "Give the folder of the pictures" in made.text and made.pictures == 0


def test_names_are_text_and_not_markup(page):
    made = page(content(names=("<script>x</script>", "&amp;")), detections((OBJECTS[0], 0.9)))
    assert "<script>x" not in made.source
    assert {row[0] for row in made.tables[1][1:]} == {"<script>x</script>", "&amp;"}


def test_names_in_plots_are_no_formulas(page):
    made = page(content(names=("a$b_{$", "_bg")), detections((OBJECTS[0], 0.9)), images=False)
    plots = [svg for svg in re.findall(r"<svg.*?</svg>", made.source, re.DOTALL) if "_bg" in svg]
    # once beside a curve, and on both sides of the matrix
    for name in (">a$b_{$<", ">_bg<"):
        assert [svg.count(name) for svg in plots] == [1, 2]


def test_pictures_of_lvis_are_found_by_their_addresses(files, tmp_path):
    """LVIS's own files have no names; its val2017 is a folder beside others."""
    annotations = content()
    words = files(annotations, detections((OBJECTS[0], 0.9)))
    for image in annotations["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/{image.pop('file_name')}"
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    assert command.main([*words, "--rules", "lvis", "--images", str(tmp_path)]) == 0
    made = Page((tmp_path / "page.html").read_text())
    assert "Not readable" not in made.text and "val/1.png 0 wrong, 1 missed, 1 right" in made.text


def test_pictures_that_are_not_there_are_named(files, tmp_path):
    words = files(content(), [])
    (tmp_path / "val/1.png").unlink()
    assert command.main([*words, "--images", str(tmp_path)]) == 0
    made = Page((tmp_path / "page.html").read_text())
    assert f"Not readable in {tmp_path}: val/1.png" in made.text


@pytest.mark.parametrize(
    "predictions, message",
    [
        ({"images": []}, "is no list of results"),
        ([{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}], "number 0 has no score"),
        (detections(((9, 7, [0, 0, 1, 1]), 1)), "image_id 9, which the annotations do not have"),
        (detections(((1, 9, [0, 0, 1, 1]), 1)), "category_id 9, which"),
        (detections((([1], 7, [0, 0, 1, 1]), 1)), "image_id [1], which"),
        (detections(((1, 7, [0, 0, 1]), 1)), "the bbox [0, 0, 1], which must be four"),
        (detections(((1, 7, None), 1)), "the bbox None, which must be four"),
        (detections(((1, 7, [0, 0, 1, math.inf]), 1)), "inf], which must be four finite numbers"),
        (detections(((1, 7, [0, 0, 1, 1]), math.nan)), "the score nan, which must be a finite"),
        (detections(((1, 7, [0, 0, 1, 1]), "1")), "the score '1', which must be a finite number"),
    ],
)
def test_predictions_that_do_not_fit(predictions, message, files, capsys):
    words = files(content(), predictions)
    with pytest.raises(SystemExit):
        command.main(words)
    assert message in capsys.readouterr().err


def test_masks_that_are_not_there_are_not_evaluated(files, capsys):
    with pytest.raises(SystemExit):
        command.main([*files(content(), []), "--iou-type", "segm"])
    assert "has no masks to evaluate" in capsys.readouterr().err


def test_masks_that_are_none_are_refused_by_the_name_of_their_file(files, capsys):
    with_masks = content()
    for annotation in with_masks["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    result = {"image_id": 1, "category_id": 7, "score": 0.5, "segmentation": "none"}
    words = files(with_masks, [result])
    with pytest.raises(SystemExit):
        command.main([*words, "--iou-type", "segm"])
    predictions = words[words.index("--predictions") + 1]
    assert f"{predictions} does not fit" in capsys.readouterr().err


# ------------------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PROBE = """<script>
document.querySelectorAll("table")[1].querySelectorAll("th button")[3].click();
const names = [...document.querySelectorAll("table")[1].tBodies[0].rows];
document.title = JSON.stringify({
  order: names.map((row) => row.cells[0].textContent),
  wide: document.documentElement.scrollWidth - window.innerWidth,
  empty: [...document.images].filter((image) => image.complete && !image.naturalWidth).length,
  drawn: [...document.querySelectorAll("figure svg")].map((s) => s.getBoundingClientRect().height),
  failed: window.failed ?? null,
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_and_sorts_the_page(page, tmp_path):
    made = page(content(), detections((OBJECTS[0], 0.9), (OBJECTS[2], 0.8)))
    catch = "<head><script>onerror = (message) => { window.failed = message; };</script>"
    probed = made.source.replace("<head>", catch, 1).replace("</body>", PROBE, 1)
    probed = probed.replace(' loading="lazy"', "")
    (tmp_path / "probed.html").write_text(probed)
    words = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--window-size=500,900", "--dump-dom", (tmp_path / "probed.html").as_uri()]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
    told = json.loads(re.search(r"<title>(.*?)</title>", shown).group(1))
    assert told["failed"] is None
    assert told["order"] == ["ant", "bee"]  # by AP, where the page began with bee
    assert told["wide"] <= 0  # nothing sticks out on a narrow screen
    assert told["empty"] == 0 and len(told["drawn"]) == 4 and min(told["drawn"]) > 100
