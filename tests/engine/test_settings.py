"""Settings of the wrong type are refused by their names."""

import re

import pytest
from detectron2.config import LazyConfig
from jobs import TOY, arguments
from omegaconf import OmegaConf

from co_detr import model_zoo
from co_detr.arguments import load_config
from co_detr.engine import main
from co_detr.engine.settings import KINDS, check_settings

DIGITS = "co_deformable_detr/co_deformable_detr_digits"
SWITCHES = [key for key, kind in KINDS.items() if kind.words.startswith("True or False")]
COUNTS = [key for key, kind in KINDS.items() if kind.words.startswith("a whole number")]
NUMBERS = [key for key, kind in KINDS.items() if re.match("a number($| from|,)", kind.words)]
NAMES = [key for key, kind in KINDS.items() if kind.words.startswith("a name or a list")]


@pytest.fixture(scope="module")
def digits():
    return model_zoo.get_config(DIGITS)


def checked(cfg, key, value):
    """What becomes of a setting; the config stays as it is."""
    cfg = OmegaConf.masked_copy(cfg, list(cfg))
    before = OmegaConf.select(cfg, key)
    OmegaConf.update(cfg, key, value)
    try:
        check_settings(cfg)
        return OmegaConf.select(cfg, key)
    finally:
        OmegaConf.update(cfg, key, before)


@pytest.mark.parametrize("key", [key for key in KINDS if key != "dataloader.test.batch_size"])
def test_every_setting_is_one_that_configs_have(digits, key):
    section, _, name = key.rpartition(".")
    assert name in OmegaConf.select(digits, section)


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_configs_have_settings_of_the_right_types(name):
    check_settings(model_zoo.get_config(name))


@pytest.mark.parametrize("key", [key for key in KINDS if not KINDS[key].may_be_null])
def test_null_is_refused_where_it_means_nothing(digits, key):
    with pytest.raises(ValueError, match=f"^{key}=null must be {KINDS[key].words}"):
        checked(digits, key, None)


@pytest.mark.parametrize("key", [key for key in KINDS if KINDS[key].may_be_null])
def test_null_passes_where_it_means_something(digits, key):
    assert checked(digits, key, None) is None


@pytest.mark.parametrize("value", ["x", 2, [True]])
@pytest.mark.parametrize("key", SWITCHES)
def test_switches(digits, key, value):
    assert checked(digits, key, True) is True and checked(digits, key, False) is False
    with pytest.raises(ValueError, match=f"^{key}=.* must be True or False"):
        checked(digits, key, value)


@pytest.mark.parametrize("value", ["10k", 0.5, [1], True, float("nan"), 1e30, {"a": 1}])
@pytest.mark.parametrize("key", COUNTS)
def test_whole_numbers(digits, key, value):
    assert checked(digits, key, 7) == 7
    with pytest.raises(ValueError, match=f"^{key}=.* must be a whole number"):
        checked(digits, key, value)


@pytest.mark.parametrize("key", COUNTS)
def test_whole_numbers_may_be_written_as_floats(digits, key):
    value = checked(digits, key, 1e4)
    assert value == 10_000 and type(value) is int


@pytest.mark.parametrize("value", ["1e-4x", [1], True, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers(digits, key, value):
    assert checked(digits, key, 0.5) == 0.5 and checked(digits, key, 1) == 1
    with pytest.raises(ValueError, match=f"^{key}=.* must be a number"):
        checked(digits, key, value)


@pytest.mark.parametrize("value", [5, 0.5, True, [1], ["a", None]])
@pytest.mark.parametrize("key", NAMES)
def test_names(digits, key, value):
    assert checked(digits, key, "a") == "a" and checked(digits, key, ["a", "b"]) == ["a", "b"]
    with pytest.raises(ValueError, match=f"^{key}=.* must be a name or a list of names"):
        checked(digits, key, value)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("train.max_iter", -1, "a whole number of at least 0"),
        ("model.num_classes", 0, "a whole number of at least 1"),
        ("train.ema.decay", 1.5, "a number from 0 to 1"),
        ("optimizer.lr", -1e-4, "a number from 0 on"),
        ("train.device", "gpu", 'a device of PyTorch, such as "cuda"'),
        ("train.device", 0, "a device of PyTorch"),
        ("train.output_dir", "", "the path of a folder"),
        ("train.output_dir", 5, "the path of a folder"),
        ("train.init_checkpoint", 5, "a text, or null"),
        ("train.tf32", 1, "True or False, or null"),
        ("train.clip_grad.params.norm_type", 0, "a number above 0, or .inf"),
        ("train.clip_grad.params.norm_type", "two", "a number above 0, or .inf"),
        ("optimizer.betas", 0.9, "a pair of numbers"),
        ("optimizer.betas", [0.9, 1], "a pair of numbers"),
        ("optimizer.betas", ["0.9", 0.99], "a pair of numbers"),
        ("dataloader.train.dataset.names", [], "a name or a list of names"),
    ],
)
def test_values_out_of_range(digits, key, value, words):
    with pytest.raises(ValueError, match="^" + re.escape(f"{key}={value!r} must be {words}")):
        checked(digits, key, value)


def test_norms_of_gradients_may_be_the_largest_value(digits):
    assert checked(digits, "train.clip_grad.params.norm_type", float("inf")) == float("inf")


@pytest.mark.parametrize("side", ["train", "test"])
def test_data_has_the_colours_in_the_order_of_the_model(digits, side):
    key = f"dataloader.{side}.mapper.image_format"
    assert checked(digits, key, "RGB") == "RGB"
    with pytest.raises(ValueError, match=f"^{key}='BGR', but model.image_format='RGB': .* colours"):
        checked(digits, key, "BGR")


def test_a_config_may_lack_sections():
    check_settings(OmegaConf.create({"train": {"max_iter": 5}, "optimizer": None}))


def test_a_job_refuses_them_before_it_writes(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="^train.max_iter='10k' must be a whole number"):
        main(arguments(run, "train.max_iter=10k"))
    assert not run.exists()


def test_a_job_takes_whole_numbers_that_are_written_as_floats(tmp_path):
    main(arguments(tmp_path / "run", "train.max_iter=2.0", "train.eval_period=0"))
    assert load_config(str(tmp_path / "run/config.yaml"))[0].train.max_iter == 2
    assert LazyConfig.load(TOY).train.max_iter == 12
