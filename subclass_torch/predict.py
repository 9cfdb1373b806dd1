"""Classes of one image by a trained checkpoint.

python subclass_torch/predict.py --checkpoint runs/subclass/<name> --image picture.png
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import (
    PRINT_CONFIG,
    FlagTable,
    Parser,
    add_flags,
    finish_parsing,
    flags_alone,
    run_main,
    whole,
)
from reproduction.runtime.run_folder import UserError, shown, together

FLAGS: FlagTable = {
    "--checkpoint": dict(required=True, metavar="FILE", help="checkpoint or run folder"),
    "--image": dict(required=True, metavar="FILE", help="JPEG or PNG of any size"),
    "--top": dict(type=whole(1), default=5, help="how many classes (default 5)"),
}


def read_image(path: Path, channels: int) -> Any:
    """Reads an image as uint8 [1, 32, 32, channels]: its centre square at 32, or at 28 in a border.

    Raises:
      UserError: missing, not JPEG or PNG, or too large.
    """
    import numpy as np
    from PIL import Image

    from datasets import DatasetError, folder
    from datasets.files import read_bounded
    from subclass_torch.data.images import SIZE

    try:
        raw = read_bounded(path, folder.MOST_FILE_BYTES)
        if channels == 3:
            return folder.decode(raw, SIZE, shown(path))[None]
        grey = Image.fromarray(folder.decode(raw, SIZE - 4, shown(path))).convert("L")
    except (OSError, DatasetError) as error:
        raise UserError(f"{shown(path)}: not a readable image ({error})") from None
    return np.pad(np.asarray(grey), 2)[None, :, :, None]  # digits have a black border, as in training


def predict(checkpoint: Path, image: Path, top: int = 5) -> list[tuple[str, float, int]]:
    """The best classes of one image.

    Args:
      checkpoint: file or run folder.
      image: image file.
      top: how many classes.
    Returns:
      (class name, score in [0, 1], winning subclass) in descending order.
    Raises:
      UserError: a damaged checkpoint or image.
    """
    import torch

    from subclass_torch.training.evaluate import load_network

    model, content = load_network(checkpoint, torch.device("cpu"))
    pixels = torch.tensor(read_image(image, len(content["mean"])))  # a copy: Pillow's array is read-only
    with together(checkpoint):
        return _best(model, content, pixels, top)


def _best(model: Any, content: dict[str, Any], pixels: Any, top: int) -> list[tuple[str, float, int]]:
    import torch

    from subclass_torch.data.augment import normalize
    from subclass_torch.method.losses import class_scores
    from subclass_torch.networks.build import scores

    inputs = normalize(pixels, torch.as_tensor(content["mean"]), torch.as_tensor(content["std"])).contiguous()
    mapping, names, args = content["subclass2class"], content["class_names"], content["args"]
    logits = scores(model, inputs)
    softmax = args.get("baseline_loss") == "softmax" and not args.get("subclass")  # all other losses are sigmoids
    p = (logits.softmax(1) if softmax else logits.sigmoid())[0]
    best = class_scores(p[None], mapping, len(names))[0]
    out = []
    for label in best.argsort(descending=True, stable=True)[:top].tolist():
        subclasses = (mapping == label).nonzero()[:, 0]
        out.append((names[label], float(best[label]), int(subclasses[p[subclasses].argmax()])))
    return out


def main() -> None:
    """Prints the best classes. Parses first: --help and --print-config need no framework."""
    parser = Parser("predict.py", "Classes of one image by a trained checkpoint.")
    add_flags(parser.additions, FLAGS | PRINT_CONFIG)
    flags = finish_parsing(parser, flags_alone)
    from reproduction.runtime import torch_runtime

    torch_runtime.start(0)
    for name, score, subclass in predict(Path(flags["checkpoint"]), Path(flags["image"]), flags["top"]):
        print(f"{100 * score:6.2f} %  {name}  (output {subclass})")


if __name__ == "__main__":
    run_main(main)
