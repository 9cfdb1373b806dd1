"""The loop of a run: train, test at intervals, keep the last and the best, go on after a kill.

Source: fast_fgvr_semi_train.py of the released code.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from datasets.identity import look
from datasets.lists import ImageLists
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.loop import Training
from reproduction.runtime.run_folder import Run, UserError, open_run, shown, stop_signals, write_json
from reproduction.runtime.tf import tf, tf1
from triplet_tf import nets
from triplet_tf.config.base_config import Config, of_run
from triplet_tf.data_sampling.image_lists import data_set, digests, open_lists
from triplet_tf.data_sampling.loader import explained
from triplet_tf.training.evaluate import Tested, accuracies, embedding_health, run_test
from triplet_tf.training.graph import Graph, build, count_parameters
from triplet_tf.training.record import write_record
from triplet_tf.training.run_files import Checkpoints, LogFile


def run_training(config: Config) -> None:
    """Runs a training script: lists, graph, training (or going on), evaluation, record."""
    with open_run(config.folder, of_run(config), config.overwrite) as run:
        if config.init == "imagenet" and tf_runtime.newest_name(run.folder) is None:
            nets.imagenet_checkpoint(config)  # its absence is reported before images are fetched
        seen = look(data_set(config), Path(config.data_dir))
        lists = open_lists(config)
        if run_data.is_finished(run, seen, lambda: digests(config, lists)):
            return
        # DEVIATION STL-D25: float32, not compiled, unless a flag asks for speed
        session_config = tf_runtime.start(config.seed, config.device, config.xla, config.amp)
        write_json(run.folder / "args.json", run.config)
        with tf1.Graph().as_default():
            tf1.set_random_seed(config.seed)
            graph = build(config, lists)
            with tf_runtime.session(session_config) as session:
                try:
                    history, tested = train(session, graph, run, config, lists)
                    precision = tf_runtime.precision_of(session_config)
                    write_record(session, graph, run, config, lists, history, tested, precision)
                except tf.errors.OpError as error:
                    raise explained(error, files_due(session, graph, config)) from None


def train(
    session: tf1.Session, graph: Graph, run: Run, config: Config, lists: ImageLists
) -> tuple[list[dict[str, Any]], Tested | None]:
    """Trains to the end.

    Args:
      session: on the graph, all variables initialised.
      graph: of `build`.
      run: open run folder.
      config: resolved flags.
      lists: training list and test list.
    Returns:
      (lines of the tests in metrics.jsonl; answers of the last test, or None if nothing was left to train).
    Raises:
      UserError: a loss or an output of the network is not finite, or the tests of a finished run are lost.
    """
    total, per_update, tested = config.train_iters, config.caffe_iter_size, None
    ends = sorted({*range(config.test_interval, total, config.test_interval), total})
    checkpoints = Checkpoints(session, run.folder, ends, config.checkpoint_filename)
    with stop_signals() as stop:
        training = Training(  # DEVIATION STL-D14: goes on at the checkpoint's own step
            config.train_mode,
            run.folder,
            ends,
            config.batch_size * per_update,
            checkpoints,
            stop,
            log_by="step",
            events="logs",
        )
        assert training.metrics  # one process, which writes
        if training.finished and not training.history:
            path = shown(run.folder / "metrics.jsonl")
            raise UserError(f"{path}: the tests of this run are lost; --overwrite starts anew")
        if config.init == "imagenet" and not training.resumed:
            start_from_imagenet(session, config, run.folder)
        log = LogFile(run.folder / f"{config.log_filename}.txt")
        log.announce(config, lists, count_parameters(), training.step)
        graph.batches.start(session, training.step * per_update)

        for _ in training.epochs():
            for step in training.steps():
                began = time.monotonic()
                if per_update > 1:
                    session.run(graph.start_update)
                losses = [session.run([graph.loss, graph.accumulate])[0] for _ in range(per_update - 1)]
                if step == 0 or (step + 1) % config.logging_threshold == 0:
                    rate, scalars, _ = session.run([graph.learning_rate, graph.scalars, graph.train])
                    losses.append(scalars["loss"])
                    line = {name: float(value) for name, value in scalars.items()}
                    training.metrics.write(step + 1, {**line, "learning_rate": float(rate)}, "train")
                    log.step(step + 1, line, time.monotonic() - began)
                else:
                    losses.append(session.run([graph.loss, graph.train])[0])
                training.log(sum(losses) / per_update)

            tested = run_test(session, graph.evaluation)
            finite = np.isfinite(tested.embeddings).all() and np.isfinite(tested.cross_entropy).all()
            if not finite:  # a loss is taken before the update of its step
                raise UserError(
                    f"{config.train_mode}: the outputs of the network are not finite after step {training.step}; "
                    "lower the learning rate"
                )
            values = accuracies(tested, lists.num_classes)
            # DEVIATION STL-D15: loss and accuracy over the whole list, not over its last batch
            row = {
                "Split_Val_Accuracy": values["accuracy"],
                "macro_accuracy": values["macro_accuracy"],
                "Val_Loss": values["cross_entropy"],
                **embedding_health(tested),
                "seconds": round(training.seconds, 3),
                "images": training.images,
            }
            training.metrics.write(training.step, row, "test")
            row = {"step": training.step, **{f"test/{name}": value for name, value in row.items()}}
            log.test(config, row, training.history)
            training.end_epoch(row)  # DEVIATION STL-D16: saves at every test and at the end; keeps the best test's
    return training.history, tested


def start_from_imagenet(session: tf1.Session, config: Config, folder: Path) -> None:
    """Fills the backbone from the ImageNet checkpoint and writes its digests into the run folder."""
    weights = nets.imagenet_checkpoint(config)
    nets.restore_imagenet(session, config.net, weights)
    write_json(folder / nets.DIGESTS, nets.checkpoint_digests(weights))


def files_due(session: tf1.Session, graph: Graph, config: Config) -> list[str]:
    """Returns the files that the pipelines were about to read when one failed: of the update, and of the test.

    A pipeline reads ahead and fails in order, so the file is of the update that is not done yet.
    """
    done = int(session.run(tf1.train.get_global_step()))
    upcoming = graph.batches.upcoming(done * config.caffe_iter_size, config.caffe_iter_size)
    return [*upcoming, *graph.evaluation.batches.files()]
