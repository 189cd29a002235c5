# SPDX-License-Identifier: MIT
"""A table of options on its way from the coordinator to the worker's program."""

import datetime

import click
import pytest

from protos.options import OptionTable, OptionTableError, name_variables


def test_a_table_arrives_as_it_was_sent() -> None:
    table = OptionTable.of("file: [worker]", {"no_mdns": True, "models": ["/a b", "/c:d"], "day": datetime.date.min})
    arrived = OptionTable.unpack(table.pack())
    assert arrived.where == table.where
    assert arrived.values == {"no-mdns": True, "models": ["/a b", "/c:d"], "day": "0001-01-01"}


@pytest.mark.parametrize("text", ["much", "7", "[]", "{}", '{"where": "", "values": 7}'])
def test_what_is_no_table_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(OptionTableError, match="CARAVAN_WORKER_TABLE is for `caravan worker` alone to set"):
        OptionTable.unpack(text)


def test_a_variable_is_called_like_the_flag_whatever_the_parameter_is_called() -> None:
    option = click.Option(["--n-best", "-n", "count"])
    typed = click.Option(["--dangerous"], allow_from_autoenv=False)
    command = click.Command("pick", params=[option, typed])
    name_variables(command, "CARAVAN_PICK")
    assert (option.envvar, option.show_envvar, typed.envvar) == ("CARAVAN_PICK_N_BEST", True, None)
