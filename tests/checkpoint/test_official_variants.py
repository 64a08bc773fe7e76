"""Conversion of what no release has: names of mmdetection 3.x, one stage, trained batch norm."""

import re

import pytest
import torch
from detectron2.config import instantiate
from golden import CONFIGS, DATA, LazyConfig, co_deformable_detr_config, co_dino_config, tensors
from safetensors.torch import load_file
from torch import nn
from zoo import build_on_meta, meta_model, release

from co_detr import model_zoo
from co_detr.checkpoint.convert import under_our_names
from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.checkpoint.official import convert_official
from co_detr.checkpoint.rename import ConversionError

DEFORMABLE, DINO = "co_deformable_detr_tiny", "co_dino_tiny"


def one_stage_config(refine=False):
    """The shrunken model as one-stage Deformable-DETR without auxiliary heads."""
    published = model_zoo.get_config("co_deformable_detr/deformable_detr_r50_12ep").model
    cfg = co_deformable_detr_config()
    del cfg.proposals, cfg.pyramid, cfg.aux_heads, cfg.query_sources.customized
    cfg.query_sources.matching = published.query_sources.matching
    cfg.query_sources.matching.num_queries = 5
    cfg.decoder.two_stage = cfg.decoder.look_forward_twice = False
    cfg.decoder.refine = refine
    return cfg


def one_stage_release(head="query_head"):
    """A state dict as mmdetection 2.x has it: the fixture's, with what one stage has instead."""
    file = {}
    for name, tensor in tensors(DEFORMABLE, "weights").items():
        one_stage = name.startswith(("backbone.", "neck.")) or re.match(
            r"query_head\.(transformer\.(encoder|decoder|level_embeds)|(cls|reg)_branches\.[01]\.)",
            name,
        )
        if one_stage:
            file[name.replace("query_head", head)] = tensor
    for name in list(file):
        if "_branches.1." in name:  # one module under two names
            file[name] = file[name.replace("_branches.1.", "_branches.0.")]
    torch.manual_seed(0)
    file[f"{head}.query_embedding.weight"] = torch.randn(5, 128)
    file[f"{head}.transformer.reference_points.weight"] = torch.randn(2, 64)
    file[f"{head}.transformer.reference_points.bias"] = torch.randn(2)
    return file


def as_mmdetection_3(file):
    """The same as mmdetection 3.x's DeformableDETR calls it."""
    table = [
        (r"query_head\.transformer\.level_embeds", "level_embed"),
        (r"query_head\.transformer\.reference_points", "reference_points_fc"),
        (r"query_head\.query_embedding", "query_embedding"),
        (r"query_head\.transformer\.(encoder\.layers\.\d+)\.attentions\.0", r"\1.self_attn"),
        (r"query_head\.transformer\.(decoder\.layers\.\d+)\.attentions\.0", r"\1.self_attn"),
        (r"query_head\.transformer\.(decoder\.layers\.\d+)\.attentions\.1", r"\1.cross_attn"),
        (r"query_head\.transformer\.(.+)\.ffns\.0\.", r"\1.ffn."),
        (r"query_head\.transformer\.", ""),
        (r"query_head\.", "bbox_head."),
    ]
    renamed = {}
    for name, tensor in file.items():
        pattern, target = next((row for row in table if re.match(row[0], name)), ("", ""))
        renamed[re.sub(pattern, target, name)] = tensor
    return renamed


@pytest.mark.parametrize("refine", [False, True])
def test_one_stage(refine):
    model = instantiate(one_stage_config(refine)).eval()
    file = one_stage_release()
    model.load_state_dict(convert_official(file, model))

    # the first half of an embedding is the position, the second the content
    embedding = file["query_head.query_embedding.weight"]
    memory = type("Memory", (), {"tokens": torch.zeros(1, 9, 64)})
    (group,) = model.query_sources["matching"](memory)
    assert torch.equal(group.position[0], embedding[:, :64])
    assert torch.equal(group.content[0], embedding[:, 64:])
    weight = file["query_head.transformer.reference_points.weight"]
    points = embedding[:, :64] @ weight.T + file["query_head.transformer.reference_points.bias"]
    torch.testing.assert_close(group.reference[0], points.sigmoid())

    assert len(model.decoder.class_branches) == (2 if refine else 1)
    for branch in model.decoder.class_branches:
        assert torch.equal(branch.weight, file["query_head.cls_branches.0.weight"])
    for branch in model.decoder.box_branches:
        assert torch.equal(branch[4].bias, file["query_head.reg_branches.1.4.bias"])


@pytest.mark.parametrize("form", ["head called bbox_head", "mmdetection 3"])
def test_one_stage_under_other_names(form):
    model = instantiate(one_stage_config())
    want = convert_official(one_stage_release(), model)
    other = one_stage_release("bbox_head")
    if form == "mmdetection 3":
        other = as_mmdetection_3(one_stage_release())
        assert "encoder.layers.0.ffn.layers.0.0.weight" in other
    found = convert_official(other, model)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)


def test_branches_that_a_model_shares_must_be_equal():
    model = instantiate(one_stage_config())
    file = one_stage_release()
    file["query_head.cls_branches.1.bias"] = file["query_head.cls_branches.1.bias"] + 1
    message = r"the model shares one \(1\):\n  query_head.cls_branches.1.bias"
    with pytest.raises(ConversionError, match=message):
        convert_official(file, model)


def test_the_level_for_auxiliary_heads_goes_where_there_are_none():
    # the release's Deformable-DETR head has it in any case
    model = instantiate(one_stage_config())
    extra = {n: t for n, t in tensors(DEFORMABLE, "weights").items() if "d.downsample" in n}
    assert len(extra) == 4
    assert convert_official(one_stage_release() | extra, model).keys() == model.state_dict().keys()


def test_the_published_one_stage_config_takes_a_state_dict_of_its_shapes():
    with torch.device("meta"):
        cfg = model_zoo.get_config("co_deformable_detr/deformable_detr_r50_12ep").model
        model = instantiate(cfg)
    state = model.state_dict()
    assert state["query_sources.matching.embedding.weight"].shape == (300, 512)
    assert {n.split(".")[2] for n in state if "_branches." in n} == {"0"}


def test_mmdetection_3_names_of_co_dino():
    model = instantiate(co_dino_config())
    want = convert_official(tensors(DINO, "weights"), model)
    file = {
        name.replace("query_head.label_embedding", "query_head.dn_generator.label_embedding"): t
        for name, t in tensors(DINO, "weights").items()
    }
    assert "query_head.dn_generator.label_embedding.weight" in file
    file |= {"data_preprocessor.mean": torch.ones(3, 1, 1), "data_preprocessor.std": torch.ones(3)}
    found = convert_official(file, model)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)


# ---------------------------------------------------------------- models that no release has


def test_a_decoder_of_another_kind_is_refused():
    model = meta_model("dab_detr/co_dab_detr_r50_c5_36ep")
    with pytest.raises(ConversionError, match="model tensors that the checkpoint lacks"):
        convert_official(release("co_deformable_detr_r50_1x_coco"), model)


def test_a_neck_of_ones_own_is_refused_by_the_names_of_its_tensors():
    model = build_on_meta("co_deformable_detr/co_deformable_detr_r50_12ep")
    model.neck = nn.Conv2d(1, 1, 1, device="meta")
    message = r"checkpoint lacks \(2\):\n  neck.weight\n  neck.bias"
    with pytest.raises(ConversionError, match=message):
        convert_official(release("co_deformable_detr_r50_1x_coco"), model)


def test_a_checkpoint_of_ours_that_does_not_fit_a_model_without_decoder():
    model = meta_model("encoder_heads/encoder_atss_r50_12ep")
    source = model.state_dict()
    del source["encoder.level_embed"]
    with pytest.raises(
        UnfittingCheckpointError, match=r"missing from it \(1\): encoder.level_embed"
    ):
        under_our_names(source, model, lambda name: False)


# ---------------------------------------------------------------- trained batch norm


def batch_norm_model(freeze_at=0):
    cfg = co_deformable_detr_config()
    full = LazyConfig.load(str(CONFIGS / "common/models/co_deformable_detr_r50.py")).model
    cfg.backbone, cfg.neck.in_channels = full.backbone, [512, 1024, 2048]
    cfg.backbone.stem.norm = cfg.backbone.stages.norm = "BN"
    cfg.backbone.freeze_at = freeze_at
    with torch.device("meta"):
        return instantiate(cfg)


@pytest.fixture(scope="module")
def batch_norm_release():
    """The fixture's weights with a full ResNet-50 whose norms have counted 7 batches."""
    file = {
        n: t
        for n, t in load_file(DATA / DEFORMABLE / "weights.safetensors").items()
        if not n.startswith(("backbone.", "neck."))
    }
    ours = batch_norm_model().state_dict()
    for name, tensor in ours.items():
        theirs = name
        for pattern, target in [
            (r"stem\.conv1\.norm\.", "bn1."),
            (r"stem\.conv1\.", "conv1."),
            (r"res(\d)\.(\d+)\.shortcut\.norm\.", r"layer\1.\2.downsample.1."),
            (r"res(\d)\.(\d+)\.shortcut\.", r"layer\1.\2.downsample.0."),
            (r"res(\d)\.(\d+)\.conv(\d)\.norm\.", r"layer\1.\2.bn\3."),
            (r"res(\d)\.", r"layer\1."),
        ]:
            if name.startswith("backbone.") and re.search(pattern, theirs):
                theirs = re.sub(pattern, target, theirs)
                break
        theirs = re.sub(r"layer(\d)", lambda m: f"layer{int(m[1]) - 1}", theirs)
        theirs = re.sub(r"neck\.(extra_)?convs\.(\d)\.norm", r"neck.\1convs.\2.gn", theirs)
        theirs = re.sub(r"(neck\.(?:extra_)?convs\.\d)\.weight", r"\1.conv.weight", theirs)
        if name.startswith(("backbone.", "neck.")):
            counter = torch.tensor(7) if name.endswith("num_batches_tracked") else tensor
            file[theirs] = counter
    return file


def test_counters_stay_where_the_model_trains_batch_norm(batch_norm_release):
    model = batch_norm_model()
    converted = convert_official(batch_norm_release, model)
    assert converted.keys() == model.state_dict().keys()
    counters = [n for n in converted if n.endswith("num_batches_tracked")]
    assert len(counters) == 53 and all(converted[name] == 7 for name in counters)


def test_counters_go_where_it_is_frozen(batch_norm_release):
    model = batch_norm_model(freeze_at=2)  # stem and first stage
    converted = convert_official(batch_norm_release, model)
    assert converted.keys() == model.state_dict().keys()
    assert "backbone.res3.0.conv1.norm.num_batches_tracked" in converted
    assert "backbone.res2.0.conv1.norm.num_batches_tracked" not in converted


def test_counters_start_at_zero_where_the_file_has_none(batch_norm_release):
    file = {n: t for n, t in batch_norm_release.items() if not n.endswith("batches_tracked")}
    model = batch_norm_model()
    converted = convert_official(file, model)
    assert converted.keys() == model.state_dict().keys()
    assert all(converted[n] == 0 for n in converted if n.endswith("batches_tracked"))
