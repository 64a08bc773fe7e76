"""Conversion of released weights from the command line, and the files it has to refuse."""

import importlib.util
import pickle
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from golden import build, co_deformable_detr_config, tensors
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from co_detr.checkpoint.model_card import card_of
from co_detr.checkpoint.reading import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "co_deformable_detr_tiny"


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Run the tool on SRC, by default with the config the fixture belongs to; returns DST."""
    spec = importlib.util.spec_from_file_location("convert", ROOT / "tools/convert_checkpoint.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    config = tmp_path / "config.py"

    def run(source, *options, target="ours.safetensors", change=""):
        config.write_text(
            "from golden import co_deformable_detr_config\nmodel = co_deformable_detr_config()\n"
            f"{change}\n"
        )
        argv = ["convert", str(source), str(tmp_path / target), "--config-file", str(config)]
        monkeypatch.setattr(sys, "argv", [*argv, *options])
        tool.main()
        return tmp_path / target

    return run


@pytest.fixture
def released(tmp_path):
    """The fixture's weights as the release would publish them."""
    path = tmp_path / "released.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": tensors(FOLDER, "weights")}, path)
    return path


@pytest.fixture(scope="module")
def ours():
    return build(co_deformable_detr_config(), FOLDER).state_dict()


@pytest.mark.parametrize("target", ["ours.safetensors", "ours.pth"])
def test_converted_weights_are_the_models(convert, released, ours, target, capsys):
    path = convert(released, target=target)
    if target.endswith(".pth"):
        model = instantiate(co_deformable_detr_config())
        DetectionCheckpointer(model).load(str(path))
        found = model.state_dict()
    else:
        found = load_file(path)
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[name], ours[name]) for name in ours)
    printed = capsys.readouterr().out
    assert "(dropped)" in printed and f"{len(ours)} tensors written" in printed


@pytest.mark.parametrize("target", ["ours.safetensors", "ours.pth"])
def test_what_is_written_knows_its_model_and_classes(convert, released, tmp_path, target):
    (tmp_path / "old.txt").write_text("a\nb\nc\nd\ne\nf\ng")
    (tmp_path / "new.txt").write_text("g\nh")
    options = ["--change-classes", "--source-names", str(tmp_path / "old.txt")]
    options += ["--target-names", str(tmp_path / "new.txt")]
    path = convert(released, *options, target=target, change="model.num_classes = 2")
    card = card_of(read_checkpoint(path))
    assert card.categories == [{"id": 0, "name": "g"}, {"id": 1, "name": "h"}]
    written = OmegaConf.create(card.config)
    assert written.num_classes == written.decoder.num_classes == 2


def test_moving_averages_beside_the_weights(convert, tmp_path, ours):
    weights = tensors(FOLDER, "weights")
    averages = {f"ema_{k.replace('.', '_')}": v + 1 for k, v in weights.items()}
    path = tmp_path / "with_ema.pth"
    torch.save({"state_dict": weights | averages}, path)
    name = "encoder.level_embed"
    assert torch.equal(load_file(convert(path))[name], ours[name])
    assert torch.equal(load_file(convert(path, "--ema"))[name], ours[name] + 1)


def test_moving_averages_apart_from_the_weights(convert, tmp_path, ours):
    weights = tensors(FOLDER, "weights")
    path = tmp_path / "with_ema.pth"
    averages = {f"module.{k}": v + 1 for k, v in weights.items()}
    torch.save({"state_dict": weights, "ema_state_dict": averages}, path)
    name = "encoder.level_embed"
    assert torch.equal(load_file(convert(path, "--ema"))[name], ours[name] + 1)


def refusal(convert, source, *options, **kwargs) -> str:
    """The message the tool stops with; nothing may be written then."""
    with pytest.raises(SystemExit) as stopped:
        convert(source, *options, **kwargs)
    assert not (source.parent / "ours.safetensors").exists()
    return str(stopped.value)


def test_asking_for_averages_that_are_not_there(convert, released):
    assert "no moving averages" in refusal(convert, released, "--ema")


def test_a_truncated_checkpoint(convert, released):
    released.write_bytes(released.read_bytes()[:100_000])
    message = refusal(convert, released)
    assert str(released) in message and "cut off" in message


def test_truncated_safetensors(convert, tmp_path):
    path = tmp_path / "released.safetensors"
    save_file(tensors(FOLDER, "weights"), path)
    path.write_bytes(path.read_bytes()[:100_000])
    assert "no complete safetensors file" in refusal(convert, path)


def test_an_empty_file(convert, tmp_path):
    path = tmp_path / "released.pth"
    path.write_bytes(b"")
    assert str(path) in refusal(convert, path)


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_code_inside_a_checkpoint_does_not_run(convert, tmp_path, save):
    path, marker = tmp_path / "released.pth", tmp_path / "it_ran"
    save({"state_dict": tensors(FOLDER, "weights"), "meta": RunsCode(marker)}, path)
    message = refusal(convert, path)
    assert "could run code" in message
    assert not marker.exists()


def test_the_wrong_config(convert, released):
    message = refusal(convert, released, change="model.encoder.num_layers = 3")
    assert "encoder.layers.2.ffn.0.weight" in message
    assert "model tensors that the checkpoint lacks" in message


def test_another_number_of_classes(convert, released):
    message = refusal(convert, released, change="model.num_classes = 5")
    assert "decoder.class_branches.0.weight: checkpoint (7, 64), model (5, 64)" in message


def test_classes_are_kept_by_name(convert, released, tmp_path, ours, capsys):
    (tmp_path / "source.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    (tmp_path / "target.txt").write_text("F\nnew\nb\n")
    path = convert(
        released,
        "--change-classes",
        f"--source-names={tmp_path / 'source.txt'}",
        f"--target-names={tmp_path / 'target.txt'}",
        change="model.num_classes = 3",
    )
    found = load_file(path)
    name = "decoder.class_branches.1.weight"
    assert torch.equal(found[name][[0, 2]], ours[name][[5, 1]])
    assert found[name].shape == (3, 64)
    name = "aux_heads.rcnn.box_head.cls_score.weight"
    assert torch.equal(found[name][[0, 2, 3]], ours[name][[5, 1, 7]])  # 7 and 3 are background
    name = "aux_heads.rcnn.box_head.bbox_pred.weight"
    assert torch.equal(found[name][:4], ours[name][20:24])
    assert torch.equal(found["encoder.level_embed"], ours["encoder.level_embed"])
    assert "started anew for 3 classes: proposals.class_branch.weight" in capsys.readouterr().out


def test_names_that_do_not_fit_the_classes(convert, released, tmp_path):
    (tmp_path / "source.txt").write_text("a\nb\n")
    message = refusal(
        convert,
        released,
        "--change-classes",
        f"--source-names={tmp_path / 'source.txt'}",
        change="model.num_classes = 3",
    )
    assert "has 7 source classes, but 2 are named" in message


ABC = "a\nb\nc\nd\ne\nf\ng\n"


def names(path, text, side):
    path.write_text(text)
    return f"--{side}-names={path}"


def test_rows_go_by_name_where_there_are_as_many_classes(convert, released, tmp_path, ours, capsys):
    source = names(tmp_path / "source.txt", ABC, "source")
    target = names(tmp_path / "target.yaml", "names: [g, new, c, a, d, e, f]\n", "target")
    path = convert(released, source, target)
    found = load_file(path)
    name = "decoder.class_branches.0.weight"
    assert torch.equal(found[name][[0, 2, 3, 6]], ours[name][[6, 2, 0, 5]])
    assert not torch.equal(found[name][1], ours[name][1])
    name = "aux_heads.rcnn.box_head.bbox_pred.bias"
    assert torch.equal(found[name][12:16], ours[name][:4])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["g", "6", "0"] in printed and ["a", "0", "3"] in printed
    assert ["new", "-", "starts", "anew"] in printed
    assert read_checkpoint(path).class_names == ("g", "new", "c", "a", "d", "e", "f")


def test_the_same_names_move_nothing(convert, released, tmp_path, ours):
    source = names(tmp_path / "source.txt", ABC, "source")
    target = names(tmp_path / "target.txt", ABC.upper(), "target")
    found = load_file(convert(released, source, target))
    assert all(torch.equal(found[name], ours[name]) for name in ours)


def test_classes_that_the_file_names_need_no_list(convert, tmp_path, ours):
    path = tmp_path / "released.pth"
    meta = {"CLASSES": tuple("abcdefg")}
    torch.save({"meta": meta, "state_dict": tensors(FOLDER, "weights")}, path)
    assert read_checkpoint(convert(path)).class_names == tuple("abcdefg")
    target = names(tmp_path / "target.txt", "c\na\n", "target")
    found = load_file(convert(path, target, change="model.num_classes = 2"))
    name = "aux_heads.atss.class_predictor.weight"
    assert torch.equal(found[name], ours[name][[2, 0]])


def test_names_of_one_side_alone_are_refused(convert, released, tmp_path):
    target = names(tmp_path / "target.txt", ABC, "target")
    assert "SRC are not known by name: add --source-names" in refusal(convert, released, target)
    source = names(tmp_path / "source.txt", ABC, "source")
    message = refusal(convert, released, source)
    assert "the config are not known by name: add --target-names" in message


def test_the_object_row_of_class_agnostic_proposals_is_kept(convert, released, ours, capsys):
    found = load_file(convert(released, "--change-classes", change="model.num_classes = 3"))
    name = "proposals.class_branch.weight"
    assert torch.equal(found[name][0], ours[name][0])
    assert f"{name}, but for row 0, which says object or not" in capsys.readouterr().out


def test_the_classes_of_a_checkpoint_of_ours_are_changed(convert, released, tmp_path, ours):
    ours_path = convert(released, target="first.pth")
    source = names(tmp_path / "source.txt", ABC, "source")
    target = names(tmp_path / "target.txt", "c\na\n", "target")
    found = load_file(convert(ours_path, source, target, change="model.num_classes = 2"))
    name = "decoder.class_branches.0.bias"
    assert torch.equal(found[name], ours[name][[2, 0]])


def test_weights_that_are_not_finite_are_refused(convert, tmp_path):
    weights = tensors(FOLDER, "weights")
    weights["query_head.transformer.level_embeds"][0, 0] = torch.nan
    path = tmp_path / "released.pth"
    torch.save({"state_dict": weights}, path)
    assert "not finite in 1: encoder.level_embed" in refusal(convert, path)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model."])
def test_wrapped_released_weights(convert, tmp_path, ours, wrapper):
    path = tmp_path / "released.pth"
    torch.save({wrapper + n: t for n, t in tensors(FOLDER, "weights").items()}, path)
    found = load_file(convert(path))
    assert all(torch.equal(found[name], ours[name]) for name in ours)
