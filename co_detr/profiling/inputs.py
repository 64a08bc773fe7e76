"""Made-up batches of any size."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances


def random_batch(
    N: int,
    side: int | tuple[int, int],
    boxes: tuple[int, int],
    sizes: tuple[int, int],
    num_classes: int = 10,
    masks: bool = False,
) -> list[dict[str, object]]:
    """Noise with random square boxes, the same ones every time.

    Args:
        N: number of images.
        side: of the images, which are squares; or (height, width). In pixels.
        boxes: how many boxes an image has, from and to.
        sizes: of the boxes, from and to, in pixels.
        num_classes: classes are below that.
        masks: fill the boxes with masks.

    Returns:
        Training examples of detectron2's format.
    """
    height, width = (side, side) if isinstance(side, int) else side
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(N):
        count = int(torch.randint(boxes[0], boxes[1] + 1, (), generator=generator))
        size = sizes[0] + (sizes[1] - sizes[0]) * torch.rand(count, 1, generator=generator)
        room = torch.tensor([width, height]) - size
        corner = room * torch.rand(count, 2, generator=generator)
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(torch.cat((corner, corner + size), dim=1)),
            gt_classes=torch.randint(0, num_classes, (count,), generator=generator),
        )
        if masks:
            instances.gt_masks = _filled(instances.gt_boxes.tensor, height, width)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


def _filled(boxes: torch.Tensor, height: int, width: int) -> BitMasks:
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    return BitMasks((x > left) & (x < right) & (y > top) & (y < bottom))
