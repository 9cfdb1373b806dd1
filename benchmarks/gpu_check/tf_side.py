"""The TensorFlow half of `make gpu-check`, a process of its own; see torch_side.py."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import class2str, triplet_input
from benchmarks.gpu_check import projection
from benchmarks.gpu_check.agreement import Agreement
from benchmarks.gpu_check.clock import EPOCHS, Clock, timed_loop
from benchmarks.gpu_check.options import child_options
from benchmarks.gpu_check.report import COMPARISON_AND_SPEED, Report, check_network
from benchmarks.gpu_check.verdict import PAPERS_OF
from class2str_tf.networks import build as networks
from class2str_tf.training import loop as class2str_loop
from class2str_tf.training import stage1
from reproduction.runtime import tf_runtime
from reproduction.runtime.record import peak_memory_bytes
from reproduction.runtime.run_folder import open_run
from reproduction.runtime.tf import tf, tf1
from reproduction.runtime.tf_import import native_stderr_closed
from triplet_tf import nets
from triplet_tf.config.base_config import of_run
from triplet_tf.data_sampling.image_lists import open_lists
from triplet_tf.reproduce import FLAGS
from triplet_tf.training import graph as graphs
from triplet_tf.training import loop as triplet_loop

STEPS = 20
# Steps of an epoch that takes about two seconds on a data-centre GPU: projected, untried.
LOOP_STEPS = {"vgg16": 150, "resnet50": 30, "early": 300, "mobile": 100}


class Side(NamedTuple):
    """A network in a graph of its own on one device.

    Attributes:
      session: with the variables initialised.
      variables: all of the graph, by name.
      trained: those with a gradient.
      images: placeholder [B, H, W, C].
      labels: placeholder int64 [B].
      loss: scalar.
      gradients: of `trained`, in their order.
      train: makes the update, after the gradients.
    """

    session: Any
    variables: dict[str, Any]
    trained: list[Any]
    images: Any
    labels: Any
    loss: Any
    gradients: list[Any]
    train: Any


class Case(NamedTuple):
    """A network of a paper.

    Attributes:
      paper: as in `make reproduce-<paper>`.
      name: of the network, as its flag has it.
      shape: of an image.
      classes: outputs.
      batch: images that the CPU can follow.
      logits: images -> logits, in training mode; dropout draws the same numbers on both devices.
      optimizer: makes the paper's optimizer at its rate.
    """

    paper: str
    name: str
    shape: tuple[int, int, int]
    classes: int
    batch: int
    logits: Callable[[Any], Any]
    optimizer: Callable[[], Any]


def see(report: Report) -> None:
    """Reports what TensorFlow sees."""
    built = tf.sysconfig.get_build_info()
    with native_stderr_closed():
        gpus = tf.config.list_physical_devices("GPU")
    descriptions = []
    for gpu in gpus:
        about = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, about.get("compute_capability", ("?",))))
        descriptions.append(f"{about.get('device_name', 'GPU')}, compute capability {capability}")
    cuda = built.get("cuda_version")
    text = (
        f"TensorFlow {tf.__version__}: built for CUDA {cuda or 'none'}, cuDNN {built.get('cudnn_version') or 'none'}; "
    )
    text += f"sees {'; '.join(descriptions) or 'no GPU'}"
    report.add("seen", text, framework="tensorflow", text=text, gpus=len(descriptions), built=cuda)


def allow_tf32(allowed: bool) -> None:
    """Lets a GPU round the factors of products to TF32, or not."""
    tf.config.experimental.enable_tensor_float_32_execution(allowed)


def _class2str(model: str) -> Case:
    config, _ = class2str.stage1_of(model, 1, 8)

    def logits(images: Any) -> Any:
        return networks.fc_classifier(networks.cnn(images, config, training=True), config, 10, training=True)

    return Case("class2str", model, (32, 32, 3), 10, 16, logits, lambda: tf1.train.AdamOptimizer(1e-4))


def _triplet(net: str, frame: int) -> Case:
    def logits(images: Any) -> Any:
        return nets.backbone(net, tf.cast(images, tf.float32) / 127.5 - 1, 100, is_training=True)[0]

    return Case("triplet", net, (frame, frame, 3), 100, 8, logits, lambda: tf1.train.MomentumOptimizer(0.01, 0.9))


def cases(small: bool) -> list[Case]:
    """The networks of the profiles paper and matched; if `small`, for a rehearsal, the latter."""
    matched = [_class2str("early"), _triplet("mobile", 128)]
    return matched if small else [_class2str("vgg16"), _triplet("resnet50", 224), *matched]


def side_of(case: Case, device: str, session_config: Any) -> Side:
    """Builds a network, its loss and its update on a device ("/CPU:0", "/GPU:0")."""
    with tf1.Graph().as_default(), tf1.device(device):
        tf1.set_random_seed(0)
        step = tf1.train.get_or_create_global_step()
        images = tf1.placeholder(tf.uint8, [case.batch, *case.shape])
        labels = tf1.placeholder(tf.int64, [case.batch])
        logits = case.logits(images)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        optimizer = case.optimizer()
        pairs = [(g, v) for g, v in optimizer.compute_gradients(loss) if g is not None]
        with tf.control_dependencies([*tf1.get_collection(tf1.GraphKeys.UPDATE_OPS), loss, *(g for g, _ in pairs)]):
            train = optimizer.apply_gradients(pairs, step)
        session = tf1.Session(config=session_config)
        session.run(tf1.global_variables_initializer())
        variables = {variable.op.name: variable for variable in tf1.global_variables()}
        gradients, trained = (list(part) for part in zip(*pairs, strict=True))
        return Side(session, variables, trained, images, labels, loss, gradients, train)


def load(side: Side, values: dict[str, np.ndarray]) -> None:
    """Puts values into variables, without a new op in the graph."""
    wanted = {side.variables[name].initializer: value for name, value in values.items()}
    side.session.run(list(wanted), {op.inputs[1]: value for op, value in wanted.items()})


def step(side: Side, images: np.ndarray, labels: np.ndarray) -> tuple[float, list[np.ndarray], list[np.ndarray]]:
    """Loss, gradients and changes of the weights of one update."""
    before = side.session.run(side.trained)
    loss, gradients, _ = side.session.run(
        [side.loss, side.gradients, side.train], {side.images: images, side.labels: labels}
    )
    after = side.session.run(side.trained)
    return float(loss), gradients, [new - old for new, old in zip(after, before, strict=True)]


def is_slot(name: str) -> bool:
    """Whether a variable is an optimizer's own, which stays on its side."""
    return any(word in name for word in ("Adam", "Momentum", "beta1_power", "beta2_power"))


def compare(case: Case, device: str, configs: dict[str, Any], steps: int) -> list[Agreement]:
    """Trains on the CPU in float32 and follows on the device, each step from the CPU's weights; see torch_side.

    Args:
      case: network.
      device: "/GPU:0" or "/CPU:0".
      configs: precision -> configuration of the session.
      steps: of training.
    """
    reference = side_of(case, "/CPU:0", configs["float32"])
    others = {name: side_of(case, device, config) for name, config in configs.items()}
    agreements = [Agreement(name) for name in others]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        images = rng.integers(0, 256, (case.batch, *case.shape), np.uint8)
        labels = rng.integers(0, case.classes, case.batch)
        weights = reference.session.run({n: v for n, v in reference.variables.items() if not is_slot(n)})
        expected = step(reference, images, labels)
        for agreement, (name, side) in zip(agreements, others.items(), strict=True):
            allow_tf32(name == "tf32")
            load(side, weights)
            measured = step(side, images, labels)
            agreement.add((expected[0], measured[0]), (expected[1], measured[1]), (expected[2], measured[2]))
        allow_tf32(False)
    return agreements


def run_class2str(model: str, device: str, session_config: Any, precision: str, small: bool, folder: Path) -> Clock:
    """Trains stage 1 for EPOCHS short epochs by the loop of the paper, on noise."""
    batch, steps = (8, 3) if small else (200 if model == "early" else 256, LOOP_STEPS[model])
    config, data = class2str.stage1_of(model, steps, batch, device)
    count = steps * batch
    data = dataclasses.replace(data, train_images=data.train_images[:count], train_labels=data.train_labels[:count])
    config, clock = dataclasses.replace(config, max_steps=None), Clock()
    allow_tf32(precision == "tf32")
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph = stage1.build(config, data, EPOCHS * steps)
        with tf_runtime.session(session_config) as session, timed_loop(class2str_loop, clock):
            class2str_loop.run_steps(
                "speed",
                session,
                graph,
                config,
                folder,
                count,
                EPOCHS * steps,
                evaluate=lambda step: {"acc": 0.0},
                best_by="test/acc",
            )
    return clock


def run_triplet(net: str, device: str, session_config: Any, precision: str, small: bool, folder: Path) -> Clock:
    """Trains with the second head for EPOCHS test intervals by the loop of the paper, on JPEG files of real size."""
    batch, steps = (8, 2) if small else (32, LOOP_STEPS[net])
    root = triplet_input.write_jpegs(folder / "data", 48 if small else 256)
    matched = FLAGS["matched"] if net == "mobile" else ()
    config = triplet_input.config_of(root, net, 224, EPOCHS * steps, device, batch, matched)
    config = dataclasses.replace(config, train_iters=EPOCHS * steps, test_interval=steps, runs_dir=str(folder))
    allow_tf32(precision == "tf32")
    clock = Clock()
    with open_run(config.folder, of_run(config)) as run, tf1.Graph().as_default():
        tf1.set_random_seed(0)
        lists = open_lists(config)
        graph = graphs.build(config, lists)
        with tf_runtime.session(session_config) as session, timed_loop(triplet_loop, clock):
            triplet_loop.train(session, graph, run, config, lists)
    return clock


def check_case(
    case: Case, device: str, configs: dict[str, Any], small: bool, report: Report, speeds: dict[str, dict[str, float]]
) -> None:
    """Compares and times one network; fills `speeds`: network -> precision -> images/s."""
    on_gpu = device != "cpu"

    def run(precision: str, folder: Path) -> tuple[Clock, float]:
        if on_gpu:
            tf.config.experimental.reset_memory_stats("GPU:0")
        loop = run_class2str if case.paper == "class2str" else run_triplet
        clock = loop(case.name, device, configs[precision], precision, small, folder)
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] if on_gpu else peak_memory_bytes()
        return clock, peak / 2**20

    place, steps = "/GPU:0" if on_gpu else "/CPU:0", 3 if small else STEPS
    compared = functools.partial(compare, case, place, configs, steps)
    check_network(case.paper, case.name, compared, run, configs, report, speeds)


def main() -> None:
    """Runs as `python -m benchmarks.gpu_check.tf_side`."""
    options = child_options()
    report = Report(options.results)
    if not options.results.exists():
        see(report)
    if options.only_see:
        return
    for gpu in tf.config.list_physical_devices("GPU") if options.device != "cpu" else []:
        tf.config.experimental.set_memory_growth(gpu, True)  # sessions share the memory with what asks for its peak
    configs = {"float32": tf_runtime.start(0, options.device)}
    if options.device != "cpu":
        tf.config.set_soft_device_placement(True)
        configs["tf32"] = configs["float32"]
        print("bf16: left out: TensorFlow rewrites a graph to bfloat16 on CPUs only", flush=True)
    print(COMPARISON_AND_SPEED, flush=True)
    speeds: dict[str, dict[str, float]] = {}
    for case in cases(options.rehearse):
        check_case(case, options.device, configs, options.rehearse, report, speeds)
    auto = "tf32" if "tf32" in configs else "float32"
    projection.report(PAPERS_OF["tensorflow"], speeds, options.rehearse, auto, report)


if __name__ == "__main__":
    main()
