"""Classes of one image by a trained checkpoint.

python subclass_torch/predict.py --checkpoint runs/subclass/<name> --image picture.png
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.flags import Parser, run_main, whole  # noqa: E402
from reproduction.runs import UserError, shown  # noqa: E402


def read_image(path: Path, channels: int):
    """Reads a picture as uint8 [1, 32, 32, channels]: shorter side to 32, centre crop, grey or colour as needed.

    Raises:
      UserError: missing or not a picture.
    """
    import numpy as np
    from PIL import Image

    from subclass_torch.images import SIZE

    try:
        with Image.open(path) as picture:
            picture = picture.convert("L" if channels == 1 else "RGB")
            if picture.size == (28, 28) and channels == 1:  # MNIST: a black border, as in training
                pixels = np.pad(np.asarray(picture), 2)
                return pixels[None, :, :, None]
            scale = SIZE / min(picture.size)
            width, height = (max(SIZE, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height))
            left, top = (width - SIZE) // 2, (height - SIZE) // 2
            pixels = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{shown(path)}: not a readable picture ({error})") from None
    return pixels.reshape(1, SIZE, SIZE, channels).copy()


def predict(checkpoint: Path, image: Path, top: int = 5) -> list[tuple[str, float, int]]:
    """The best classes of one image.

    Args:
      checkpoint: file or run folder. image: picture file. top: how many classes.
    Returns:
      (class name, score in [0, 1], winning subclass) in descending order.
    """
    import torch

    from subclass_torch import augment, evaluate, models

    model, content = evaluate.load_network(checkpoint, torch.device("cpu"))
    pixels = torch.from_numpy(read_image(image, len(content["mean"])))
    inputs = augment.normalize(pixels, torch.tensor(content["mean"]), torch.tensor(content["std"])).contiguous()
    mapping, names = content["subclass2class"], content["class_names"]
    scores = torch.sigmoid(models.scores(model, inputs))[0]
    best = evaluate.class_scores(scores[None], mapping, len(names))[0]
    out = []
    for label in best.argsort(descending=True, stable=True)[:top].tolist():
        subclasses = (mapping == label).nonzero()[:, 0]
        out.append((names[label], float(best[label]), int(subclasses[scores[subclasses].argmax()])))
    return out


def main() -> None:
    """Prints the best classes."""
    p = Parser("predict.py", "Classes of one image by a trained checkpoint.")
    p.additions.add_argument("--checkpoint", required=True, metavar="FILE", help="checkpoint or run folder")
    p.additions.add_argument("--image", required=True, metavar="FILE", help="picture of any size")
    p.additions.add_argument("--top", type=whole(1), default=5, help="how many classes (default 5)")
    args = p.parse_args()
    from reproduction import torch_runtime

    torch_runtime.start(0)
    for name, score, subclass in predict(Path(args.checkpoint), Path(args.image), args.top):
        print(f"{100 * score:6.2f} %  {name}  (output {subclass})")


if __name__ == "__main__":
    run_main(main)
