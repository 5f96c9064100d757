"""Finding an encoder's weights: on this disk, in the hub's cache, or fetched once, without long waits for a network."""

import contextlib
import hashlib
import os
import pickle
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from raypipe.errors import EncoderError, one_line

TIMEOUT_S = 5.0
"""Seconds after which a server that does not answer is given up."""
_asking = threading.RLock()


def fetch_from_hub(repository: str, names: Sequence[str], unusable: Callable[[str], EncoderError]) -> Path:
    """Return the first of the named files that the local cache has, else the first that the hub has.

    The cache comes first, so that a hundred encoders that start together do not all ask the hub. Whether the hub
    answers is tried once beforehand, because its client retries each file for 23 seconds.

    Parameters
    ----------
    repository
        The hub's name of it, "owner/name".
    names
        Files of which any will do, the best first.
    unusable
        Makes an error of what is wrong.

    Raises
    ------
    EncoderError
        If there is none of the files, or the hub cannot be asked.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(repository, name, local_files_only=True))
    forbidden = "HF_HUB_OFFLINE forbids fetching them" if constants.HF_HUB_OFFLINE else None
    absence = forbidden or find_absence(constants.ENDPOINT)
    if absence:
        raise unusable(f"the weights {repository} are not in the local cache, and {absence}")
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except Exception as error:  # Network errors are those of the HTTP library, which varies with the hub's client.
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                raise unusable(f"the weights {repository} cannot be fetched ({one_line(error)})") from error
    raise unusable(f"the hub's repository {repository} has no file {' or '.join(names)}")


def fetch_from_url(url: str, unusable: Callable[[str], EncoderError]) -> Path:
    """Return the local file of weights at a URL, in torch's own cache; parameters and errors as of `fetch_from_hub`."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    absence = find_absence(url)
    if absence:
        raise unusable(f"the weights {path.name} are not in {path.parent}, and {absence}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = torch.hub.HASH_REGEX.search(path.name)  # Such names hold the start of the file's SHA-256.
        torch.hub.download_url_to_file(url, str(path), hash_prefix and hash_prefix.group(1), progress=False)
    except Exception as error:  # torch raises what the network, the disk and a wrong hash give.
        raise unusable(f"the weights {url} cannot be fetched ({one_line(error)})") from error
    return path


@contextlib.contextmanager
def asking_hub(really: bool) -> Iterator[None]:
    """Let other libraries ask the hub; where it cannot be reached, its client looks into the local cache alone.

    It would otherwise try each file for 23 seconds, and write so to stderr. If they do not ``really`` ask the hub,
    whether it answers is not tried.
    """
    if not really:
        yield
        return
    from huggingface_hub import constants

    with _asking:  # The client knows no other setting than one of the whole process.
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = before or find_absence(constants.ENDPOINT) is not None
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def find_absence(url: str) -> str | None:
    """Return why a server cannot be asked, or None if it answers."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()  # Any answer shows that the server can be reached.
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # The hub's client may know certificates that urllib does not.
            return f"{url} cannot be reached ({reason})"
    return None


def holds_code(error: Exception) -> bool:
    """Return whether torch refused to load a file for the code in it; its own message advises to run that code."""
    return isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)


def file_at(name: str) -> Path:
    """Return the path of a file that a person names; ``~`` is the home of a user, and stays where there is none."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 – Path.expanduser raises if '~name' is no user


def hash_files(*files: Path) -> str:
    """Return a short name of the files' content."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256-{digest.hexdigest()[:16]}"
