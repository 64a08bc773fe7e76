"""Every released model's names, shapes and number of parameters against those of our config."""

import pytest
from golden import DATA
from zoo import RELEASES, meta_model, record, release

from co_detr.checkpoint.official import convert_official


def test_every_release_has_its_config():
    recorded = {path.name.removesuffix(".json.gz") for path in (DATA / "official_keys").iterdir()}
    assert recorded == set(RELEASES)
    assert len(set(RELEASES.values())) == len(RELEASES)


@pytest.mark.parametrize("name", RELEASES)
def test_conversion_is_strict_and_complete(name):
    model = meta_model(RELEASES[name])
    converted = convert_official(release(name), model)  # raises if anything is left over
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in converted.items()} == expected


@pytest.mark.parametrize("name", RELEASES)
def test_as_many_parameters_are_trained(name):
    trained = sum(p.numel() for p in meta_model(RELEASES[name]).parameters() if p.requires_grad)
    # of its 1024 channels wide position embeddings, ours lacks that of the unused class token
    class_token = 1024 if "_vit_" in name else 0
    assert trained + class_token == record(name)["num_trainable_parameters"]
