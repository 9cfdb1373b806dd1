"""Which deviations the flags switch on and off, and that the page names these flags."""

import json
import re
from types import SimpleNamespace

import pytest

from reproduction.runtime.deviations import active
from subclass_torch import deviations, flags
from subclass_torch.yt8m import flags as yt8m_flags
from tests.test_deviation_pages import rows


@pytest.mark.parametrize(
    ("table", "make", "module"),
    [(deviations.IMAGES, flags.make_parser, flags), (deviations.VIDEOS, yt8m_flags.make_parser, yt8m_flags)],
)
def test_switches_exist_and_official_turns_them_off(table, make, module, capsys):
    def config(*argv):
        with pytest.raises(SystemExit):
            module.parse([*argv, "--print-config"])
        return SimpleNamespace(**json.loads(capsys.readouterr().out))

    switched = {name for name, test in table.items() if test is not None}
    known = make()._option_string_actions
    for name in switched:
        words = re.findall(r"`(--[\w-]+)", rows("subclass")[name][4])
        assert words and all(word in known for word in words), name
    for name in table.keys() - switched:
        assert rows("subclass")[name][4] == "-", name
    ours = active(config(), table)
    official = active(config("--compat", "official"), table)
    assert not set(official) & switched
    fast = {"SDN-D28", "SDN-Y11"} & set(table)
    # equal to the code's on CIFAR-10, or off by default
    assert fast <= set(table) - set(ours) <= {"SDN-D02", "SDN-D03"} | fast
    for switch in (["--amp", "bf16"], ["--amp", "tf32"], ["--compile"], *([["--channels-last"]] * (module is flags))):
        assert set(active(config(*switch), table)) == {*ours, *fast}
    if module is flags:
        assert {"SDN-D02", "SDN-D03"} <= set(active(config("--dataset", "svhn"), table))
