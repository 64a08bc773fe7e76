"""What is known of the models of the zoo without loading their configs; MODEL_ZOO.md says more."""

from typing import NamedTuple, TypeVar


class Facts(NamedTuple):
    """One model.

    Args:
        backbone: R50, Swin-T to Swin-L, ViT-L; R18/4 is a ResNet-18 of a quarter of the width.
        data: what its config trains and evaluates on.
        epochs: on that; None where the config counts iterations.
        queries: of the decoder in inference; None without a decoder.
        published_ap: box AP as the paper or the release publishes it, on COCO val2017 or LVIS v1
            val; None where neither does. Not measured here.
        release: the name of the authors' weights; None where there are none.
    """

    backbone: str
    data: str
    epochs: int | None
    queries: int | None
    published_ap: float | None
    release: str | None


# name, backbone, data, epochs, queries, published AP
_TABLE = """
co_deformable_detr/deformable_detr_r50_12ep                R50    COCO       12   300  37.1
co_deformable_detr/deformable_detr_r50_12ep_atss           R50    COCO       12   300  42.3
co_deformable_detr/deformable_detr_r50_12ep_k2             R50    COCO       12   300  42.9
co_deformable_detr/deformable_detr_r50_36ep                R50    COCO       36   300  43.3
co_deformable_detr/group_deformable_detr_r50_36ep          R50    COCO       36   300  44.6
co_deformable_detr/deformable_detr_r50_36ep_retinanet      R50    COCO       36   300  46.1
co_deformable_detr/deformable_detr_r50_36ep_rcnn           R50    COCO       36   300  46.3
co_deformable_detr/deformable_detr_r50_36ep_mask_rcnn      R50    COCO       36   300  46.5
co_deformable_detr/deformable_detr_r50_36ep_fcos           R50    COCO       36   300  46.5
co_deformable_detr/deformable_detr_r50_36ep_paa            R50    COCO       36   300  46.5
co_deformable_detr/deformable_detr_r50_36ep_gfl            R50    COCO       36   300  46.5
co_deformable_detr/deformable_detr_r50_36ep_atss           R50    COCO       36   300  46.8
co_deformable_detr/deformable_detr_r50_36ep_k2             R50    COCO       36   300  46.5
co_deformable_detr/co_deformable_detr_r50_12ep_k0          R50    COCO       12   300  47.1
co_deformable_detr/co_deformable_detr_r50_12ep_k1          R50    COCO       12   300  48.7
co_deformable_detr/co_deformable_detr_r50_12ep_atss_paa    R50    COCO       12   300  49.0
co_deformable_detr/co_deformable_detr_r50_12ep             R50    COCO       12   300  49.5
co_deformable_detr/co_deformable_detr_r50_12ep_k3          R50    COCO       12   300  49.5
co_deformable_detr/co_deformable_detr_r50_12ep_k6          R50    COCO       12   300  48.9
co_deformable_detr/co_deformable_detr_r50_36ep             R50    COCO       36   300     -
co_deformable_detr/co_deformable_detr_mask_r50_12ep        R50    COCO       12   300     -
co_deformable_detr/co_deformable_detr_swin_tiny_12ep_k0    Swin-T COCO       12   300     -
co_deformable_detr/co_deformable_detr_swin_tiny_12ep_k1    Swin-T COCO       12   300     -
co_deformable_detr/co_deformable_detr_swin_tiny_12ep       Swin-T COCO       12   300  51.7
co_deformable_detr/co_deformable_detr_swin_tiny_36ep       Swin-T COCO       36   300  54.1
co_deformable_detr/co_deformable_detr_swin_small_12ep      Swin-S COCO       12   300  53.4
co_deformable_detr/co_deformable_detr_swin_small_36ep      Swin-S COCO       36   300  55.3
co_deformable_detr/co_deformable_detr_swin_base_12ep_k0    Swin-B COCO       12   300     -
co_deformable_detr/co_deformable_detr_swin_base_12ep_k1    Swin-B COCO       12   300     -
co_deformable_detr/co_deformable_detr_swin_base_12ep       Swin-B COCO       12   300  55.5
co_deformable_detr/co_deformable_detr_swin_base_36ep       Swin-B COCO       36   300  57.5
co_deformable_detr/co_deformable_detr_swin_large_12ep_k0   Swin-L COCO       12   300  55.2
co_deformable_detr/co_deformable_detr_swin_large_12ep_k1   Swin-L COCO       12   300  56.4
co_deformable_detr/co_deformable_detr_swin_large_12ep      Swin-L COCO       12   300  56.9
co_deformable_detr/co_deformable_detr_swin_large_900q_36ep Swin-L COCO       36   900  58.5
encoder_heads/encoder_atss_r50_12ep                        R50    COCO       12     -  46.8
encoder_heads/encoder_atss_r50_36ep                        R50    COCO       36     -     -
encoder_heads/encoder_rcnn_r50_12ep                        R50    COCO       12     -  45.9
h_deformable_detr/h_deformable_detr_r50_12ep               R50    COCO       12   300  48.4
h_deformable_detr/co_h_deformable_detr_r50_12ep_k1         R50    COCO       12   300  49.2
h_deformable_detr/co_h_deformable_detr_r50_12ep            R50    COCO       12   300  49.7
conditional_detr/co_conditional_detr_r50_c5_36ep_k0        R50    COCO       36   300  39.4
conditional_detr/co_conditional_detr_r50_c5_36ep_k1        R50    COCO       36   300  41.5
conditional_detr/co_conditional_detr_r50_c5_36ep           R50    COCO       36   300  41.8
dab_detr/co_dab_detr_r50_c5_36ep_k0                        R50    COCO       36   300  41.2
dab_detr/co_dab_detr_r50_c5_36ep_k1                        R50    COCO       36   300  43.1
dab_detr/co_dab_detr_r50_c5_36ep                           R50    COCO       36   300  43.5
co_dino/co_dino_r50_4scale_12ep_k0                         R50    COCO       12   900     -
co_dino/co_dino_r50_4scale_12ep_k1                         R50    COCO       12   900     -
co_dino/co_dino_r50_4scale_12ep                            R50    COCO       12   900     -
co_dino/co_dino_r50_5scale_12ep_k0                         R50    COCO       12   900  49.4
co_dino/co_dino_r50_5scale_12ep_k1                         R50    COCO       12   900  51.0
co_dino/co_dino_r50_5scale_12ep                            R50    COCO       12   900  52.1
co_dino/co_dino_r50_5scale_lsj_12ep                        R50    COCO       12   900  52.1
co_dino/co_dino_r50_5scale_lsj_36ep                        R50    COCO       36   900  54.8
co_dino/co_dino_r50_5scale_lsj_9enc_12ep                   R50    COCO       12   900     -
co_dino/co_dino_r50_5scale_lsj_9enc_36ep                   R50    COCO       36   900     -
co_dino/co_dino_swin_large_5scale_12ep_k0                  Swin-L COCO       12   900  58.5
co_dino/co_dino_swin_large_5scale_12ep_k1                  Swin-L COCO       12   900  59.3
co_dino/co_dino_swin_large_5scale_12ep                     Swin-L COCO       12   900  58.9
co_dino/co_dino_swin_large_5scale_24ep                     Swin-L COCO       24   900  59.8
co_dino/co_dino_swin_large_5scale_36ep                     Swin-L COCO       36   900  60.0
co_dino/co_dino_swin_large_5scale_lsj_12ep                 Swin-L COCO       12   900  59.3
co_dino/co_dino_swin_large_5scale_lsj_24ep                 Swin-L COCO       24   900  60.4
co_dino/co_dino_swin_large_5scale_lsj_36ep                 Swin-L COCO       36   900  60.7
co_dino/co_dino_swin_large_5scale_16ep_o365tococo          Swin-L COCO       16   900  64.1
co_dino/co_dino_vit_large_5scale_12ep                      ViT-L  COCO       12  1500  65.9
co_dino/co_dino_vit_large_5scale_12ep_instance             ViT-L  COCO       12  1500     -
co_dino/co_dino_r50_5scale_12ep_lvis                       R50    LVIS       12   900     -
co_dino/co_dino_r50_5scale_lsj_12ep_lvis                   R50    LVIS       12   900     -
co_dino/co_dino_swin_large_5scale_lsj_36ep_lvis            Swin-L LVIS       36   900  56.9
co_dino/co_dino_swin_large_5scale_lsj_16ep_o365tolvis      Swin-L LVIS       16   900     -
co_dino/co_dino_vit_large_5scale_lsj_16ep_lvis             ViT-L  LVIS       16   900  67.9
co_dino/co_dino_vit_large_5scale_lsj_16ep_lvis_instance    ViT-L  LVIS       16   900     -
co_dino/co_dino_vit_large_5scale_o365_26ep                 ViT-L  Objects365 26  1500     -
co_dino/co_dino_vit_large_5scale_lsj_o365_26ep             ViT-L  Objects365 26   900     -
co_deformable_detr/co_deformable_detr_digits_k0            R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_k1            R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_retinanet     R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_rcnn          R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_mask_rcnn     R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_fcos          R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_paa           R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_gfl           R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_k6            R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits               R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_atss_paa      R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_k3            R18/4  digits      -    40     -
co_deformable_detr/co_deformable_detr_digits_lvis          R18/4  digits      -    40     -
co_deformable_detr/deformable_detr_digits                  R18/4  digits      -    40     -
co_deformable_detr/deformable_detr_digits_atss             R18/4  digits      -    40     -
co_deformable_detr/deformable_detr_digits_k2               R18/4  digits      -    40     -
co_deformable_detr/group_deformable_detr_digits            R18/4  digits      -    40     -
h_deformable_detr/co_h_deformable_detr_digits_k0           R18/4  digits      -    40     -
h_deformable_detr/co_h_deformable_detr_digits_k1           R18/4  digits      -    40     -
h_deformable_detr/co_h_deformable_detr_digits              R18/4  digits      -    40     -
co_dino/co_dino_digits_k0                                  R18/4  digits      -    40     -
co_dino/co_dino_digits_k1                                  R18/4  digits      -    40     -
co_dino/co_dino_digits                                     R18/4  digits      -    40     -
encoder_heads/encoder_atss_digits                          R18/4  digits      -     -     -
encoder_heads/encoder_rcnn_digits                          R18/4  digits      -     -     -
conditional_detr/co_conditional_detr_digits_k0             R18/4  digits      -    40     -
conditional_detr/co_conditional_detr_digits_k1             R18/4  digits      -    40     -
conditional_detr/co_conditional_detr_digits                R18/4  digits      -    40     -
dab_detr/co_dab_detr_digits_k0                             R18/4  digits      -    40     -
dab_detr/co_dab_detr_digits_k1                             R18/4  digits      -    40     -
dab_detr/co_dab_detr_digits                                R18/4  digits      -    40     -
co_dino/co_dino_trees_k0                                   EfficientNet-Lite0 trees - 300 -
co_dino/co_dino_trees                                      EfficientNet-Lite0 trees - 300 -
"""

_RELEASES = {
    "co_deformable_detr_r50_12ep": "co_deformable_detr_r50_1x_coco",
    "co_deformable_detr_mask_r50_12ep": "co_deformable_detr_mask_r50_1x_coco",
    "co_deformable_detr_swin_tiny_12ep": "co_deformable_detr_swin_tiny_1x_coco",
    "co_deformable_detr_swin_tiny_36ep": "co_deformable_detr_swin_tiny_3x_coco",
    "co_deformable_detr_swin_small_12ep": "co_deformable_detr_swin_small_1x_coco",
    "co_deformable_detr_swin_small_36ep": "co_deformable_detr_swin_small_3x_coco",
    "co_deformable_detr_swin_base_12ep": "co_deformable_detr_swin_base_1x_coco",
    "co_deformable_detr_swin_base_36ep": "co_deformable_detr_swin_base_3x_coco",
    "co_deformable_detr_swin_large_12ep": "co_deformable_detr_swin_large_1x_coco",
    "co_deformable_detr_swin_large_900q_36ep": "co_deformable_detr_swin_large_900q_3x_coco",
    "co_dino_r50_5scale_12ep": "co_dino_5scale_r50_1x_coco",
    "co_dino_r50_5scale_lsj_12ep": "co_dino_5scale_lsj_r50_1x_coco",
    "co_dino_r50_5scale_lsj_36ep": "co_dino_5scale_lsj_r50_3x_coco",
    "co_dino_r50_5scale_lsj_9enc_12ep": "co_dino_5scale_9encoder_lsj_r50_1x_coco",
    "co_dino_r50_5scale_lsj_9enc_36ep": "co_dino_5scale_9encoder_lsj_r50_3x_coco",
    "co_dino_swin_large_5scale_12ep": "co_dino_5scale_swin_large_1x_coco",
    "co_dino_swin_large_5scale_24ep": "co_dino_5scale_swin_large_2x_coco",
    "co_dino_swin_large_5scale_36ep": "co_dino_5scale_swin_large_3x_coco",
    "co_dino_swin_large_5scale_lsj_12ep": "co_dino_5scale_lsj_swin_large_1x_coco",
    "co_dino_swin_large_5scale_lsj_24ep": "co_dino_5scale_lsj_swin_large_2x_coco",
    "co_dino_swin_large_5scale_lsj_36ep": "co_dino_5scale_lsj_swin_large_3x_coco",
    "co_dino_swin_large_5scale_16ep_o365tococo": "co_dino_5scale_swin_large_16e_o365tococo",
    "co_dino_vit_large_5scale_12ep": "co_dino_5scale_vit_large_coco",
    "co_dino_vit_large_5scale_12ep_instance": "co_dino_5scale_vit_large_coco_instance",
    "co_dino_r50_5scale_12ep_lvis": "co_dino_5scale_r50_1x_lvis",
    "co_dino_r50_5scale_lsj_12ep_lvis": "co_dino_5scale_lsj_r50_1x_lvis",
    "co_dino_swin_large_5scale_lsj_36ep_lvis": "co_dino_5scale_lsj_swin_large_3x_lvis",
    "co_dino_swin_large_5scale_lsj_16ep_o365tolvis": "co_dino_5scale_lsj_swin_large_16e_o365tolvis",
    "co_dino_vit_large_5scale_lsj_16ep_lvis": "co_dino_5scale_lsj_vit_large_lvis",
    "co_dino_vit_large_5scale_lsj_16ep_lvis_instance": "co_dino_5scale_lsj_vit_large_lvis_instance",
}


_Number = TypeVar("_Number", int, float)


def _number(text: str, kind: type[_Number]) -> _Number | None:
    return None if text == "-" else kind(text)


def _facts(row: str) -> tuple[str, Facts]:
    name, backbone, data, epochs, queries, ap = row.split()
    numbers = _number(epochs, int), _number(queries, int), _number(ap, float)
    return name, Facts(backbone, data, *numbers, _RELEASES.get(name.rpartition("/")[2]))


MODELS: dict[str, Facts] = dict(map(_facts, _TABLE.strip().splitlines()))
"""Facts by the name of the config."""

SHORT_NAMES: dict[str, str] = {
    "co_dino_r50": "co_dino/co_dino_r50_5scale_12ep",
    "co_dino_swin_large": "co_dino/co_dino_swin_large_5scale_12ep",
    "co_dino_vit_large": "co_dino/co_dino_vit_large_5scale_12ep",
    "co_deformable_detr_r50": "co_deformable_detr/co_deformable_detr_r50_12ep",
    "co_deformable_detr_swin_tiny": "co_deformable_detr/co_deformable_detr_swin_tiny_12ep",
    "co_deformable_detr_swin_small": "co_deformable_detr/co_deformable_detr_swin_small_12ep",
    "co_deformable_detr_swin_base": "co_deformable_detr/co_deformable_detr_swin_base_12ep",
    "co_deformable_detr_swin_large": "co_deformable_detr/co_deformable_detr_swin_large_12ep",
    "co_h_deformable_detr_r50": "h_deformable_detr/co_h_deformable_detr_r50_12ep",
    "co_conditional_detr_r50": "conditional_detr/co_conditional_detr_r50_c5_36ep",
    "co_dab_detr_r50": "dab_detr/co_dab_detr_r50_c5_36ep",
}
"""What is meant by a name that says no more than method and backbone."""
