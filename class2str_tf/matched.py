"""Commands of the profile `matched`: the paper's claims with a small network, in minutes on one core a seed.

From one stage 1, with the same data and batch, for as many further epochs at one rate (a third of stage 1's on CIFAR,
three times it on MNIST): the LH classifier, the FC classifier, and an FC classifier of the LH's weights, each with its
CNN trained along. On the features of stage 1: learned strings against fixed ones. ROWS=settings trains stage 1 at three
rates on four fifths of the training images and tests it on the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from class2str_tf.flags import settings_of
from reproduction.launch.pipeline import Command, Request, rates_around
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, shown

STAGE1_SCRIPT = "class2str_tf/train_fc_classifier.py"
STAGE2_SCRIPT = "class2str_tf/train_rnn_classifier_cifar.py"
FURTHER = ("--epochs", "5", "--lr", "3e-3")  # after stage 1, for every variant whose CNN is trained too
ALONG = (*FURTHER, "--finetune", "all", "--no-reduced-fc", "--retry-collisions", "3")
FURTHER_SETS, FURTHER_SEEDS = ("mnist", "cifar100"), 3  # of ROWS=all
LONG = 100  # epochs of each stage, the poster's protocol on MNIST
FROZEN, FROZEN_LONG = 30, 150  # epochs on the features of stage 1, which take seconds each
ALIKE = (*FURTHER, "--finetune", "none", "--no-cache-features", "--no-reduced-fc", "--retry-collisions", "3")


@dataclass(frozen=True)
class Setting:
    """What differs between the data sets.

    Attributes:
      network: flags of the network and its training.
      features: number of features that the network computes.
      epochs: epochs of stage 1.
      lstm: value of --lstm-units, the sizes of the LH classifier's LSTMs.
      loss: weights w_c, w_i, w_l2.
      minutes: estimated minutes of stage 1, of the further epochs of LH, FC or reduced FC, and of a frozen row. They
        are for two cores with one command of one thread on each, and follow from measured images/s.
    """

    network: tuple[str, ...]
    features: int
    epochs: int
    lstm: str
    loss: tuple[float, float, float]
    minutes: tuple[float, float, float]


FAST = ("--one-cycle", "--amp", "auto", "--eval-batch", "1000", "--weight-decay", "1e-4")
EARLY = ("--model", "early", "--pixels", "centred", "--augment", "--lr", "1e-2", *FAST)
LENET = ("--model", "lenet", "--lenet", "poster", "--lr", "1e-3", *FAST)
SETTINGS = {
    "cifar10": Setting(EARLY, 512, 14, "10", (4, 100, 0.1), (4.6, 2.3, 0.4)),
    "cifar100": Setting(EARLY, 512, 12, "13,13", (4, 100, 0.03), (8.5, 4.5, 0.5)),
    "mnist": Setting(LENET, 3136, 6, "10", (1, 100, 0.03), (5, 4.5, 0.5)),
}
# On the features of stage 1: name -> flags
ON_FEATURES = {
    "frozen": (),
    "random": ("--codes", "random"),
    "tree": ("--codes", "tree"),
    "lstm32": ("--lstm-units", "32,32"),
    "lstm100": ("--lstm-units", "100"),
    "nodecay": ("--weight-decay", "0"),
}


def commands_of(request: Request) -> list[Command]:
    """Returns the commands of all seeds, seed by seed. With flags of ARGS only the main row is run.

    ROWS=all also trains the LH as in the main row, but with the CNN frozen; on MNIST both stages for 100 epochs; on
    CIFAR the LH on features for 150. ROWS=all of CIFAR-10 goes on with MNIST and CIFAR-100, of fewer seeds.

    Raises:
      UserError: a data set that this profile has no settings for.
    """
    if request.dataset not in SETTINGS:
        raise UserError(f"PROFILE=matched has settings for {', '.join(SETTINGS)}, not for {request.dataset}")
    if request.settings:
        return rate_commands(request)
    setting, commands = SETTINGS[request.dataset], []
    for seed in request.seeds:
        cnn = RUNS_ROOT / "class2str" / request.base_row() / f"seed{seed}"
        commands.append(_command(request, seed, "", "stage 1, CNN + FC", ("--epochs", f"{setting.epochs}"), 1, cnn))
        further = (*FURTHER, "--cnn-dir", shown(cnn))
        if not request.extra:
            commands.append(_command(request, seed, "fc", "FC trained on as long", further, 1, cnn))
        commands.append(_command(request, seed, "", "LH, CNN trained along", (*ALONG, *request.extra), 2, cnn))
        if request.extra:
            continue
        commands.append(_command(request, seed, "reduced", "reduced FC", (*further, *_reduced(request)), 1, cnn))
        for variant, flags in ON_FEATURES.items():
            commands.append(_on_features(request, seed, variant, FROZEN, flags, cnn))
    if not request.all_rows or request.extra:
        return commands
    if request.dataset == "mnist":
        commands += [command for seed in request.seeds for command in _long(request, seed)]
    for seed in request.seeds[:FURTHER_SEEDS]:
        cnn = RUNS_ROOT / "class2str" / request.base_row() / f"seed{seed}"
        commands.append(_command(request, seed, "frozen5", "LH, CNN frozen, otherwise as the main row", ALIKE, 2, cnn))
        if request.dataset != "mnist":
            commands.append(_on_features(request, seed, f"frozen{FROZEN_LONG}", FROZEN_LONG, (), cnn))
    if request.dataset == "cifar10":
        other = replace(request, copy="", seeds=request.seeds[:FURTHER_SEEDS])
        commands += [command for name in FURTHER_SETS for command in commands_of(replace(other, dataset=name))]
        for seed in other.seeds:
            cnn = RUNS_ROOT / "class2str" / request.base_row() / f"seed{seed}"
            linear = (*FURTHER, "--cnn-dir", shown(cnn), *_reduced(request), "--fc-linear")
            commands.append(_command(request, seed, "linear", "reduced FC without ReLU", linear, 1, cnn))
    return commands


def rate_commands(request: Request) -> list[Command]:
    """Stage 1 at each rate that its own is chosen from, for half the epochs, on four fifths of the training images."""
    setting, seed = SETTINGS[request.dataset], request.seeds[0]
    usual = float(setting.network[setting.network.index("--lr") + 1])
    short = ("--hold-out", "--epochs", str(setting.epochs // 2))
    commands = [
        _command(request, seed, f"rate-{rate}", "stage 1, CNN + FC", (*short, "--lr", rate), 1, Path())
        for rate in rates_around(usual)
    ]
    minutes = 0.4 * setting.minutes[0]
    return [replace(command, cpu_minutes=minutes, worker=command.row) for command in commands]


def _on_features(request: Request, seed: int, variant: str, epochs: int, flags: tuple[str, ...], cnn: Path) -> Command:
    """Stage 2 on the features of stage 1, which are computed once."""
    frozen = ("--epochs", f"{epochs}", "--finetune", "none", "--retry-collisions", "3", *flags)
    command = _command(request, seed, variant, "LH on features", frozen, 2, cnn)
    return replace(command, cpu_minutes=command.cpu_minutes * epochs / FROZEN)


def _long(request: Request, seed: int) -> list[Command]:
    """Stage 1 and the LH with its CNN trained along, each for as many epochs as in the poster's protocol on MNIST."""
    cnn = RUNS_ROOT / "class2str" / f"{request.base_row()}-long" / f"seed{seed}"
    stage1 = _command(request, seed, "long", "stage 1, CNN + FC", ("--epochs", f"{LONG}"), 1, cnn)
    stage2 = _command(request, seed, "long", "LH, CNN trained along", (*ALONG, "--epochs", f"{LONG}"), 2, cnn)
    usual = SETTINGS[request.dataset].epochs, int(FURTHER[1])
    return [
        replace(command, cpu_minutes=command.cpu_minutes * LONG / epochs)
        for command, epochs in zip((stage1, stage2), usual, strict=True)
    ]


def _reduced(request: Request) -> tuple[str, str]:
    """The flag of a reduced FC with as many weights as the LH."""
    return "--fc-weights", str(lh_weights(SETTINGS[request.dataset], settings_of(request.dataset)["bits"]))


def lh_weights(setting: Setting, num_bits: int) -> int:
    """Weights of the LH classifier: of its LSTMs, and of a linear map for each bit."""
    total, inputs = 0, setting.features
    for units in map(int, setting.lstm.split(",")):
        total, inputs = total + 4 * units * (inputs + units), units
    return total + num_bits * 2 * inputs


def _command(
    request: Request, seed: int, variant: str, what: str, variant_flags: tuple[str, ...], stage: int, cnn: Path
) -> Command:
    """One command; `variant_flags` are those of its variant alone, `cnn` the run folder of stage 1."""
    setting = SETTINGS[request.dataset]
    extra = stage == 2 and bool(request.extra)
    row = request.row(variant) if extra else request.base_row() + f"-{variant}" * bool(variant)
    folder = RUNS_ROOT / "class2str" / row / f"seed{seed}"
    on_features = "none" in variant_flags and "--no-cache-features" not in variant_flags
    flags = ["--B=200", "--dataset", request.dataset, "--name", f"seed{seed}", "--seed", str(seed), *setting.network]
    if stage == 2:
        w_c, w_i, w_l2 = setting.loss
        flags += ["--label-grad", "flow", "--lstm-units", setting.lstm]
        flags += [f"--w_c={w_c}", f"--w_i={w_i}", f"--w_l2={w_l2}"]
        flags += ["--cnn-dir", shown(cnn)] if folder != cnn else []
    if on_features:  # those of whole images
        flags = [flag for flag in flags if flag != "--augment"]
    flags += [*variant_flags, "--runs-dir", shown(folder.parent), *request.shared_flags(row)]
    minutes = setting.minutes[2 if on_features else 1 if stage == 2 or "--cnn-dir" in variant_flags else 0]
    label = f" ({variant})" if variant else ""
    return Command(
        row,
        f"{what}{label}, seed {seed}",
        STAGE2_SCRIPT if stage == 2 else STAGE1_SCRIPT,
        tuple(flags),
        folder / "rnn" if stage == 2 else folder,
        cpu_minutes=minutes,
        worker=f"seed{seed}",
    )
