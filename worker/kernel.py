# SPDX-License-Identifier: MIT
"""What Linux tells of this machine's processor and of cards whose driver writes files (amdgpu), in /proc and /sys.
Elsewhere it tells nothing.

Called under the lock of worker/telemetry.py. Source: the kernel's own documentation, proc_stat(5),
Documentation/hwmon/sysfs-interface and Documentation/gpu/amdgpu/thermal.
"""

import functools
import time
from collections.abc import Iterator
from pathlib import Path

from worker.figures import DriverError, Figure, Gauge, Gauges

_PROC = Path("/proc")
_SYS = Path("/sys")

_MILLI = 1000
_MICRO = 1_000_000
_PERCENT = 100

# The kernel's names of sensors inside a processor: Intel's and AMD's own, and what boards call theirs.
_PROCESSOR_SENSORS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal"})
_PROCESSOR_ZONES = frozenset({"x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal", "soc_thermal"})

# Of /proc/stat's first line: user, nice, system, idle, iowait, irq, softirq, steal. What follows is in user already.
_N_TIMES = 8
_IDLE, _IOWAIT = 3, 4
# In the kernel's hundredths of a second, of all processors together: fewer are no measurement.
_SHORTEST = 8
# How long to look, when nobody did for so long that what was since says little about now.
_LOOK_S = 0.1
_OLD_S = 5.0


def processor_gauges(proc: Path = _PROC, sys: Path = _SYS) -> Gauges:
    """How to ask for the machine's utilisation and for the processor's temperature."""
    found: Gauges = []
    if (proc / "stat").exists():
        found.append((Figure.UTILISATION, _Utilisation(proc / "stat").read))
    found += [(Figure.TEMPERATURE_C, _scaled(file, _MILLI)) for file in _processor_sensors(sys)]
    return found


def card_gauges(bus_id: str, sys: Path = _SYS) -> Gauges:
    """How to ask for each figure that the card's driver writes."""
    card = sys / "bus" / "pci" / "devices" / bus_id
    files = [
        (Figure.USED_BYTES, "mem_info_vram_used", 1),
        (Figure.UTILISATION, "gpu_busy_percent", _PERCENT),
        (Figure.TEMPERATURE_C, "hwmon/hwmon*/temp1_input", _MILLI),
        (Figure.POWER_W, "hwmon/hwmon*/power1_average", _MICRO),
        (Figure.POWER_W, "hwmon/hwmon*/power1_input", _MICRO),
        (Figure.POWER_LIMIT_W, "hwmon/hwmon*/power1_cap", _MICRO),
    ]
    return [(figure, _scaled(file, scale)) for figure, name, scale in files for file in sorted(card.glob(name))]


class _Utilisation:
    """Of all processors together, since the last look; blocks for a tenth of a second if that was long ago."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before = self._times()
        self._before_s: float | None = None
        self._share: float | None = None

    def read(self) -> float | None:
        """0 to 1; what it was, or None, if the last look was just now."""
        if self._before_s is None or time.monotonic() - self._before_s > _OLD_S:
            self._before, self._before_s = self._times(), time.monotonic()
            time.sleep(_LOOK_S)
        times = self._times()
        passed = [now - before for now, before in zip(times, self._before, strict=True)]
        if sum(passed) >= _SHORTEST:
            self._before, self._before_s = times, time.monotonic()
            self._share = 1 - (passed[_IDLE] + passed[_IOWAIT]) / sum(passed)
            # iowait may go backwards (proc_stat(5)).
            self._share = min(1.0, max(0.0, self._share))
        return self._share

    def _times(self) -> list[int]:
        words = _text(self._file).split("\n", 1)[0].split()[1 : 1 + _N_TIMES]
        try:
            times = [int(word) for word in words]
        except ValueError:
            times = []
        if len(times) < _N_TIMES:
            raise DriverError(f"{self._file} does not begin with the times of all processors")
        return times


def _processor_sensors(sys: Path) -> Iterator[Path]:
    """Files with a processor's temperature, the best first."""
    for folder in sorted((sys / "class" / "hwmon").glob("hwmon*")):
        if _is_named(folder / "name", _PROCESSOR_SENSORS) and (folder / "temp1_input").exists():
            yield folder / "temp1_input"
    for folder in sorted((sys / "class" / "thermal").glob("thermal_zone*")):
        if _is_named(folder / "type", _PROCESSOR_ZONES):
            yield folder / "temp"


def _is_named(file: Path, names: frozenset[str]) -> bool:
    try:
        return _text(file).strip() in names
    except DriverError:
        return False


def _scaled(file: Path, scale: int) -> Gauge:
    return functools.partial(_number, file, scale)


def _number(file: Path, scale: int) -> float:
    """An integer that is to be divided by `scale`."""
    try:
        number = int(_text(file))
    except ValueError as error:
        raise DriverError(f"{file} holds no number") from error
    return number if scale == 1 else number / scale


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise DriverError(f"{file} cannot be read ({error})") from error
