"""The summary of a run: printing it, and the exit status that results."""

from __future__ import annotations

from typing import Protocol

from core.command_line import DONE, FAILED
from core.output import print_line


class Summary(Protocol):
    """The results of a run; `str()` is the last line of the command."""

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do, so that nothing needs to be logged."""
        ...


_UNDONE = ("failed", "interrupted", "returned", "unanswered", "paused")
"""The fields of summaries for unfinished work."""


def was_paused(summary: Summary) -> bool:
    """Return whether an outage ended the run, of a tracker too: nothing was raised, but work remains."""
    return getattr(summary, "paused", None) is not None


def print_summary(summary: object) -> int:
    """Print the summary as the last line of a command, and return the exit status."""
    print_line(str(summary))
    return exit_status(summary)


def exit_status(summary: object) -> int:
    """Return FAILED if some of the work was not done."""
    return FAILED if any(getattr(summary, name, 0) for name in _UNDONE) else DONE
