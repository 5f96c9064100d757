"""The errors that a user of raypipe can meet. A message is one line that names the thing, the place and the remedy."""

import re
from numbers import Integral, Real


class RaypipeError(Exception):
    """Anything that stops raypipe for a reason the user can act upon; the command line exits with 1."""


class UsageError(RaypipeError, ValueError):
    """The request itself is wrong (an unknown preset, a bad parameter); the command line exits with 2.

    It is a ValueError too, which is what callers of a scikit-learn estimator expect of a bad argument.
    """


class SourceError(RaypipeError):
    """A source cannot be read, or lists a video wrongly."""


class DecodeError(RaypipeError):
    """One video cannot be probed or decoded. The error is recorded in the video's row and never ends a run."""


class SourceAwayError(DecodeError):
    """A video's server does not answer at present. The video may be sound, so the next run tries it again."""


class EncoderError(RaypipeError):
    """An encoder cannot be made, or broke its protocol."""


_LONGEST = 300  # Characters of a message from elsewhere.
_WORDS = {type(None): "None", Real: "a number", Integral: "a whole number"}


def check_type(name: str, value: object, kind: type | tuple[type, ...], remedy: str = "") -> None:
    """Raise `UsageError` if an argument is not of its type, or of one of its types."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        told = " or ".join(_WORDS.get(each, each.__name__) for each in kinds)
        raise UsageError(f"{name} must be {told}, not {type(value).__name__}{remedy and f': {remedy}'}")


def message_of(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def one_line(error: BaseException) -> str:
    """Return an error's type and message on one line of bounded length."""
    message = message_of(error)
    message = f"{message[:_LONGEST]} …" if len(message) > _LONGEST else message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def last_line(traceback: str) -> str:
    """Return what a traceback says last, which is the error, without the name of its module."""
    line = traceback.strip().splitlines()[-1][:300]
    return re.sub(r"^[\w.]+\.(\w+:)", r"\1", line)
