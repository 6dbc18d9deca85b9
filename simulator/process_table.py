"""What /proc says about processes: who lives, since when, and who descends from whom."""

from __future__ import annotations

import os


class Stat:
    """One process as /proc/PID/stat has it; ``start_time`` in clock ticks since the kernel started."""

    __slots__ = ("name", "parent", "pid", "session", "start_time", "state")

    def __init__(self, pid: int, text: str) -> None:
        # the name may hold spaces and brackets: everything after the last closing one is regular
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        self.pid = pid
        self.name = head.partition("(")[2]
        self.state = fields[0]
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start_time = int(fields[19])

    @property
    def alive(self) -> bool:
        """Whether it can still do or hold anything; a zombie cannot."""
        return self.state not in {"Z", "X", "x"}


def read(pid: int) -> Stat | None:
    """Return what /proc says about ``pid``, None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - lean
            return Stat(pid, file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_alive(pid: int, start_time: int) -> bool:
    """Whether the process that began as ``pid`` at ``start_time`` still lives."""
    stat = read(pid)
    return stat is not None and stat.start_time == start_time and stat.alive


def arguments(pid: int) -> list[str]:
    """Return the command line of ``pid``, empty for a zombie or a process that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - lean
            return file.read().rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(ancestor: int) -> list[Stat]:
    """Return every process below ``ancestor``, zombies too, parents before their children."""
    children: dict[int, list[Stat]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - lean
        stat = read(int(entry)) if entry.isdigit() else None
        if stat is not None:
            children.setdefault(stat.parent, []).append(stat)
    found: list[Stat] = []
    queue = [ancestor]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += [stat.pid for stat in below]
    return found
