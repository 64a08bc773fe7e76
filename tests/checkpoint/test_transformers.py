"""Names and layouts of weights published with Hugging Face `transformers`."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import transformers
from detectron2.config import instantiate
from hugging_face import KINDS
from safetensors.torch import load_file
from zoo import build_on_meta

from co_detr.checkpoint.class_layers import class_layer
from co_detr.checkpoint.rename import ConversionError
from co_detr.checkpoint.transformers import convert_transformers, tidy, transformers_table
from co_detr.modeling.neck import SimpleFeaturePyramid

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_files_give_what_the_models_hold(kind, tmp_path):
    """Files keep the names of version 4, and one copy of what the model has several times."""
    make_theirs, config = KINDS[kind]
    theirs, ours = make_theirs(), instantiate(config())
    theirs.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    if kind != "dab":  # named as before in version 5
        assert "model.encoder.layers.0.fc1.weight" in saved
        assert "model.encoder.layers.0.fc1.weight" not in theirs.state_dict()
    from_file = convert_transformers(saved, ours)
    from_model = convert_transformers(theirs.state_dict(), ours)
    assert from_file.keys() == from_model.keys() == ours.state_dict().keys()
    assert all(torch.equal(from_file[name], from_model[name]) for name in from_file)


PUBLISHED = {
    "Conditional": ("conditional_detr/co_conditional_detr_r50_c5_36ep_k0", {}),
    "Dab": ("dab_detr/co_dab_detr_r50_c5_36ep_k0", {}),
    "Deformable": (
        "co_deformable_detr/deformable_detr_r50_12ep",
        {"neck.bias": True, "encoder.ffn_dim": 1024},
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_models_of_full_size(kind):
    """As published: ResNet-50 of timm, 91 rows of classes, which are the ids of COCO."""
    config = getattr(transformers, f"{kind}DetrConfig")(num_labels=91)
    with torch.device("meta"):
        theirs = getattr(transformers, f"{kind}DetrForObjectDetection")(config)
    weights = {
        name: tensor
        for name, tensor in theirs.state_dict().items()
        if not name.startswith("model.decoder.bbox_embed.")  # a copy, as files have it once
        and not (kind == "Deformable" and name.split(".")[1] in "12345")
    }
    assert any("layer4.2.conv3.weight" in name for name in weights)
    name, changes = PUBLISHED[kind]
    ours = build_on_meta(name, **changes)
    converted = convert_transformers(weights, ours)
    assert converted.keys() == ours.state_dict().keys()


def test_rows_of_coco_ids_become_rows_of_classes():
    ours = build_on_meta("conditional_detr/co_conditional_detr_r50_c5_36ep_k0")
    bias = torch.arange(91)  # every row holds its id
    classes = tidy({"class_labels_classifier.bias": bias}, ours)["class_labels_classifier.bias"]
    assert len(classes) == 80
    assert classes[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]  # person to meter
    assert classes[-1] == 90  # toothbrush
    other = torch.arange(92)
    assert (
        tidy({"class_labels_classifier.bias": other}, ours)["class_labels_classifier.bias"] is other
    )


def test_class_layers_of_single_scale_models_are_known():
    assert class_layer("decoder.class_branch.bias") == (1, 0)
    assert class_layer("decoder.box_branch.0.bias") is None


def test_projections_are_packed_in_the_order_of_attention():
    ours = build_on_meta("conditional_detr/co_conditional_detr_r50_c5_36ep_k0")
    prefix = "model.encoder.layers.0.self_attn."
    # any order in the file
    source = {
        f"{prefix}{x}_proj.bias": torch.full((2,), i) for x, i in (("k", 1), ("v", 2), ("q", 0))
    }
    (packed,) = tidy(source, ours).values()
    assert packed.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_refined_checkpoint_for_a_config_without_refinement_is_refused():
    """Its layers have branches of their own, of which one would be taken for all."""
    theirs = KINDS["deformable-refined"][0]()
    ours = instantiate(KINDS["deformable"][1]())
    with pytest.raises(ValueError, match=r"_embed\.\d.* is no copy of the other tensors"):
        convert_transformers(theirs.state_dict(), ours)


def test_checkpoints_of_another_kind_are_refused():
    theirs = KINDS["dab"][0]()
    ours = instantiate(KINDS["conditional"][1]())
    with pytest.raises(ConversionError, match="model.query_refpoint_embeddings.weight"):
        convert_transformers(theirs.state_dict(), ours)


def test_a_model_that_transformers_has_not_is_refused():
    with pytest.raises(ValueError, match="DeformableDecoder as in DINO"):
        transformers_table(build_on_meta("co_dino/co_dino_r50_5scale_12ep"))


def test_a_neck_that_transformers_has_not_is_refused():
    ours = build_on_meta("co_deformable_detr/deformable_detr_r50_12ep")
    ours.neck = SimpleFeaturePyramid()
    with pytest.raises(ValueError, match="the config's neck is SimpleFeaturePyramid"):
        transformers_table(ours)


def test_the_tool(tmp_path, monkeypatch, capsys):
    theirs = KINDS["dab"][0]()
    theirs.save_pretrained(tmp_path)
    config = tmp_path / "config.py"
    config.write_text('from hugging_face import KINDS\nmodel = KINDS["dab"][1]()\n')
    target = tmp_path / "ours.safetensors"
    spec = importlib.util.spec_from_file_location("convert", ROOT / "tools/convert_checkpoint.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    argv = ["convert", str(tmp_path / "model.safetensors"), str(target), "--config-file"]
    monkeypatch.setattr(sys, "argv", [*argv, str(config), "--from", "transformers"])
    tool.main()
    found = load_file(target)
    ours = instantiate(KINDS["dab"][1]())
    assert torch.equal(found["decoder.class_branch.weight"], theirs.class_embed.weight)
    ours.load_state_dict(found)  # strictly
    assert f"{len(found)} tensors written" in capsys.readouterr().out
