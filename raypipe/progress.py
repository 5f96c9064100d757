"""Progress of a run, shown as rich bars on a terminal, as plain lines elsewhere, or not at all."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """A function that adds to a count, and may say how the work goes."""

    def __call__(self, n: float, note: str = "", /) -> None:
        """Add ``n``; the note stands behind the count until there is another."""


class Progress:
    """Shows nothing. The library's functions use it unless their caller passes another."""

    def say(self, line: str) -> None:
        """Show one line."""

    @contextlib.contextmanager
    def count(self, what: str, total: int, unit: str = "videos") -> Iterator[Advance]:
        """Show a count that grows to ``total``, and yield a function that adds to it."""
        yield lambda n, note="": None


class PlainProgress(Progress):
    """Prints a line when something starts and when it ends, and at most one every ten seconds in between."""

    every_s = 10.0

    def say(self, line: str) -> None:
        """Print the line on standard error."""
        print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def count(self, what: str, total: int, unit: str = "videos") -> Iterator[Advance]:
        """Print counts with the rate and the time left."""
        started = printed = time.monotonic()
        done, said = 0.0, ""

        def advance(n: float, note: str = "", /) -> None:
            nonlocal done, printed, said
            done, said = done + n, f", {note}" if note else said
            now = time.monotonic()
            if now - printed >= self.every_s:
                printed = now
                rate = done / (now - started)
                left = f", {clock((total - done) / rate)} left" if rate else ""
                self.say(f"{what}: {done:.0f}/{total} {unit}, {rounded(rate)} a second{left}{said}")

        self.say(f"{what}: {total} {unit.removesuffix('s') if total == 1 else unit}")
        yield advance
        self.say(f"{what}: {done:.0f}/{total} {unit} in {clock(time.monotonic() - started)}{said}")


class RichProgress(Progress):
    """Shows bars with the rate and the time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def say(self, line: str) -> None:
        """Print the line on standard error."""
        self._console.print(line, highlight=False, markup=False)

    @contextlib.contextmanager
    def count(self, what: str, total: int, unit: str = "videos") -> Iterator[Advance]:
        """Show a bar."""
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description:<12}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn(unit + " {task.fields[rate]}"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
        )
        with bars.Progress(*columns, console=self._console) as bar:
            task = bar.add_task(what, total=total, rate="", note="")

            def advance(n: float, note: str = "", /) -> None:
                speed = bar.tasks[0].speed
                said = note or bar.tasks[0].fields["note"]
                bar.update(task, advance=n, rate=f"{speed:.1f}/s" if speed else "", note=said)

            yield advance


def make_progress(quiet: bool) -> Progress:
    """Return bars if standard error is a terminal, else plain lines; nothing is shown if ``quiet``."""
    if quiet:
        return Progress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


def clock(seconds: float) -> str:
    """Return a duration as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def rounded(rate: float) -> str:
    """Return a rate in two digits or to the unit, and never as 1.6e+02: 0.39, 4.7, 1,234."""
    return f"{rate:.2g}" if rate < 10 else f"{rate:,.0f}"


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 video, 2,000 videos."""
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def is_path(text: str) -> bool:
    """Whether a text is a path, or a part of one: what tells such names apart is mostly their end."""
    return "/" in text and not any(map(str.isspace, text))


def shorten(text: str, length: int = 60) -> str:
    """Return a text on one line of so many characters at most: its beginning, or the end of a path."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    return end_of_path(text, length) if is_path(text) else f"{text[: length - 1]}…"


def end_of_path(text: str, length: int) -> str:
    """Return the last of so many characters of a path, from a folder's name on if that leaves half of them."""
    kept = text[1 - length :]
    return f"…{kept[max(kept.find('/', 0, length // 2), 0) :]}"
