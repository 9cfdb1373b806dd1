"""Stage 1 on ImageNet: pool5 features of a pretrained VGG16, and the accuracy of its own FC classifier.

The released script trains nothing: it loads the pretrained convolutions and runs the validation set through pool5. Here
one pass over each split writes the features to a memory-mapped .npy (129 GB for the training set), in blocks, so that a
killed run goes on, and measures the FC accuracy of the pretrained head, which the authors never do (C2S-D25).
Source: authors' train_fc_classifer_imagenet.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from class2str_tf.data.imagenet import SIZE, Stream, load, refuse_unused
from class2str_tf.flags import Config, of_run
from class2str_tf.networks.vgg16_imagenet import WEIGHTS, assign_weights, network
from class2str_tf.training import imagenet_features, record
from datasets import weights
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.run_folder import UserError, open_run, shown
from reproduction.runtime.tf import tf1


def run_fc(config: Config, size: int = SIZE, weights_file: Path | None = None) -> None:
    """Runs train_fc_classifer_imagenet.py: checkpoint, features of both splits, FC accuracy, record.

    Args:
      config: resolved flags of stage 1; `F` is the first width (64).
      size: height and width of the images, pixels.
      weights_file: vgg16_weights.npz; None looks for it in the data folder.
    Raises:
      UserError, DatasetError: no images, no weights, weights of another network, too small a disk.
    """
    if config.eval:
        raise UserError("--eval: this script trains nothing; its FC accuracy is in record.json of the run folder")
    unused = ("amp", "epochs", "max_steps", "lr", "one_cycle", "weight_decay", "cnn_dir", "fc_weights", "fc_linear")
    refuse_unused(config, unused, "whose stage 1 trains nothing and computes in float32")
    with open_run(config.folder, of_run(config), config.overwrite) as run:
        session_config = tf_runtime.start(config.seed, config.device, config.xla)
        seen = run_data.look_at(run.config)
        data = load(config, size)
        if run_data.is_finished(run, seen, lambda: data.digests):
            return
        accept = config.accept_unverified
        path, digest = weights.find(WEIGHTS, Path(config.data_dir), weights_file, accept)
        digests = {**data.digests, WEIGHTS: digest}
        print(
            f"imagenet: {len(data.train_labels)} training and {len(data.test_labels)} validation images, "
            f"{len(data.class_names)} classes; weights {shown(path)}",
            flush=True,
        )
        with tf1.Graph().as_default():
            tf1.set_random_seed(config.seed)
            step = tf1.train.get_or_create_global_step()
            stream = Stream(config.B, size)
            outputs = network(stream.images, len(data.class_names), config.F)
            with tf_runtime.session(session_config) as session:
                assign_weights(session, path)
                session.run(tf1.assign(step, 1))
                tf_runtime.save_checkpoint(session, tf1.train.Saver(), run.folder / "model-1", keep=[1])
                start = time.monotonic()
                images = imagenet_features.extract(session, stream, outputs, data, digests, run, config.B)
            logits = np.load(run.folder / "fc-logits-test.npy", mmap_mode="r")
            right = logits.argmax(axis=1) == data.test_labels
            accuracy = float(right.mean())
            if accuracy < 3 / len(data.class_names):
                print(
                    f"warning: FC accuracy {100 * accuracy:.2f} % is near chance: are the labels in the order of the "
                    "weights' 1,000 classes (sorted WordNet ids)?",
                    file=sys.stderr,
                )
            record.finish_imagenet(run, config, data, digests, accept, right, images, time.monotonic() - start)
