"""One image through a trained run: `python -m class2str_tf.predict --run runs/class2str/exp1/rnn --image seven.png`."""

from __future__ import annotations

import io
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from class2str_tf.flags import SINCE, Stage2Config
from class2str_tf.stage1_folder import recorded_folder, stage1_digest
from reproduction.runtime.flags import PRINT_CONFIG, FlagTable, Parser, add_flags, finish_parsing, flags_alone, run_main
from reproduction.runtime.run_folder import UserError, read_json, shown

FLAGS: FlagTable = {
    "--run": dict(required=True, metavar="DIR", help="rnn/ folder of a stage-2 run"),
    "--image": dict(required=True, metavar="FILE", help="JPEG or PNG"),
}


def read_image(path: Path, shape: tuple[int, int, int], squash: bool = False) -> np.ndarray:
    """Returns an image file as input of the network, prepared as the training images: uint8 [1, H, W, C].

    Args:
      path: JPEG or PNG.
      shape: H, W, C; H = W.
      squash: resize the whole image to H x W by nearest neighbours, as `data.imagenet.decode` does; otherwise its
        central square is resized, as `datasets.folder.decode` does.
    Raises:
      UserError: no such file, or no image.
    """
    from PIL import Image

    from datasets import DatasetError, folder
    from datasets.files import read_bounded, reading
    from datasets.orientation import upright

    size, _, channels = shape
    try:
        raw = read_bounded(path, folder.MOST_FILE_BYTES)
        if squash:
            with reading(path), Image.open(io.BytesIO(raw)) as image:
                pixels = np.asarray(upright(image.convert("RGB"), raw))
            rows, columns = (np.arange(size) * length // size for length in pixels.shape[:2])
            pixels = pixels[rows][:, columns]
        else:
            pixels = folder.decode(raw, size, str(path))
    except DatasetError as error:
        raise UserError(f"--image {path}: not a readable image ({error})") from None
    return (np.asarray(Image.fromarray(pixels).convert("L"))[..., None] if channels == 1 else pixels)[None]


def trained_with(folder: Path) -> Stage2Config:
    """The resolved flags of a run of stage 2, from its config.json.

    Raises:
      UserError: no such run, or one of another version.
    """
    names = [field.name for field in fields(Stage2Config)]
    values = SINCE | read_json(folder / "config.json", *(name for name in names if name not in SINCE))
    return Stage2Config(**{name: values[name] for name in names})


def predict(run: Path, image: Path) -> None:
    """Prints the string that the LH classifier outputs for an image, the class with this string, and likely classes."""
    config = trained_with(run)

    from class2str_tf.method import codes, model
    from class2str_tf.networks import build as networks
    from class2str_tf.training.record import read_strings
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.tf import tf, tf1

    table = read_strings(run)
    shape = tuple(table["image_shape"])
    session_config = tf_runtime.start(config.seed, "cpu")
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        tf1.train.get_or_create_global_step()
        x = tf1.placeholder(tf.uint8, [None, *shape])
        outputs = networks.cnn(x, config, training=False)
        p = tf.nn.softmax(model.lh_classifier(outputs, config.n_sequence, config.lstm_units))
        with tf_runtime.session(session_config) as session:
            newest = _newest(run)
            cnn_dir = recorded_folder(config.cnn_dir)
            cnn_from = newest if config.finetune != "none" else _newest(cnn_dir)
            if cnn_from is not newest and stage1_digest(cnn_dir) not in (config.stage1, None):
                raise UserError(f"{shown(cnn_dir)}: stage 1 was trained again since {shown(run)}; train stage 2 again")
            tf_runtime.restore_for_evaluation(session, cnn_from, config.model, networks.variables("cnn"))
            tf_runtime.restore_for_evaluation(session, newest, "the LH classifier", networks.variables("lh"))
            probabilities = session.run(p, {x: read_image(image, shape, squash=config.dataset == "imagenet")})
    known = codes.from_strings(table["strings"])
    owner = codes.decode(probabilities, known, "exact")[0]
    print(
        f"string {codes.strings(codes.bits_of(probabilities))[0]}: "
        f"{table['class_names'][owner] if owner >= 0 else 'no class owns it'}"
    )
    bits = probabilities[0]  # [L, 2]
    likelihood = np.prod(bits[np.arange(len(bits)), known.astype(int)], axis=1)
    for c in np.argsort(-likelihood)[:3]:
        print(f"  {table['class_names'][c]:20} {table['strings'][c]}  likelihood {likelihood[c]:.3f}")


def _newest(folder: Path) -> Path:
    from reproduction.runtime import tf_runtime

    present = tf_runtime.checkpoints(folder)
    if not present:
        raise UserError(f"{folder}: no checkpoint")
    return present[0][1]


def main() -> None:
    """Parses first: --help and --print-config need no framework."""
    parser = Parser("class2str_tf.predict", "Class string and class of one image.")
    add_flags(parser.additions, FLAGS | PRINT_CONFIG)
    flags = finish_parsing(parser, flags_alone)
    predict(Path(flags["run"]), Path(flags["image"]))


if __name__ == "__main__":
    run_main(main)
