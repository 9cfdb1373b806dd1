"""Which deviations the flags switch on and off, and that the page names these flags."""

import re

from finegrained_torch import deviations, flags
from tests.test_deviation_pages import rows


def test_switches_exist_and_turn_their_id_on_or_off():
    def active(*argv):
        return set(deviations.active(flags.parse_pipeline(list(argv))))

    known = flags.pipeline_parser()._option_string_actions
    switched = {name for name, test in deviations.ALL.items() if test is not None}
    for name, row in rows("finegrained").items():
        words = re.findall(r"`(--[\w-]+)", row[4])
        assert bool(words) == (name in switched) and all(word in known for word in words), name
        assert words or row[4] == "-", name
    default = active()
    assert default == set(deviations.ALL) - {f"FGL-D{n:02d}" for n in (2, 26, 27, 28, 33, 34)}  # CIFAR-10
    assert active("--split", "legacy") == default - {"FGL-D04"}
    assert active("--freeze") == default | {"FGL-D26"}  # no call of the release freezes
    assert active("--head", "plain") == default  # pipeline.py's
    for heads in (["deep_layer"], ["keep_sub_head"], ["plain", "deep_layer"]):
        assert active("--head", *heads) == default | {"FGL-D27"}
    assert active("--dataset", "mnist") == default | {"FGL-D02"}
    assert active("--dataset", "pathmnist") == default | {"FGL-D28", "FGL-D34"}
    for fast in (["--channels-last"], ["--precision", "tf32"], ["--precision", "auto"], ["--compile"]):
        assert active(*fast) == default | {"FGL-D33"}
