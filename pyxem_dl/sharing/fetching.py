"""Shared files are downloaded once, checked by their sha256, and kept; what is there is used without a network.

Pooch's downloader does the work. Around it: https alone and wherever it is redirected to, no password of the user, a
bound for the size, nothing that is unpacked on the way, one process at a time, and no file that is not whole.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from pyxem_dl.checks import LARGEST_CONFIGURATION, read_json, read_text
from pyxem_dl.crystals.downloads import Host, check_address
from pyxem_dl.crystals.writing import printable, safe_name
from pyxem_dl.files import claimed, replacing
from pyxem_dl.messages import say
from pyxem_dl.progress import progressbar
from pyxem_dl.sharing.references import ArchiveReference, HubReference, hub_endpoint

#: Environment variable with the folder of what was downloaded
CACHE = "PYXEM_DL_CACHE"
#: Largest archive in bytes: somewhat more than the largest weights that are read
LARGEST_ARCHIVE = 17 * 2**30
_CONFIG, _WEIGHTS, _SUMS = "config.json", "model.safetensors", "SHA256SUMS"
#: Files of a model on the hub, and how many bytes each may have
_HUB_FILES = {_CONFIG: LARGEST_CONFIGURATION, _WEIGHTS: LARGEST_ARCHIVE, "reference.safetensors": 2**30}
_PIECE = 2**16
_MOST_REDIRECTS = 10
#: Seconds for a connection, and for each piece of an answer
_TIMEOUT = (10, 30)
#: Seconds after which a wait for another process is told
_PATIENCE = 5.0


def cache_folder() -> Path:
    """Folder of what was downloaded: pooch's for this package, or that in ``PYXEM_DL_CACHE``."""
    import pooch

    given = os.environ.get(CACHE)
    return Path(given).expanduser() if given else Path(pooch.os_cache("pyxem_dl"))


# ---------------------------------------------------------------- archives
def fetch_archive(reference: ArchiveReference, show_progressbar: bool | None = None) -> Path:
    """Return the file of a packed model, downloaded unless it is there.

    Parameters
    ----------
    reference : ArchiveReference
        Where it is.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Raises
    ------
    ValueError
        If no hash is given (the error has that of what is there), or the file has another one.
    OSError
        If it cannot be downloaded; the error says where to put it by hand.
    """
    folder = cache_folder() / "models"
    if reference.sha256 is None:
        raise _no_hash(reference, folder, show_progressbar)
    path = folder / f"{reference.sha256}.zip"
    if _has_hash(path, reference.sha256):
        return path
    with _alone(path):
        if not _has_hash(path, reference.sha256):  # another process may have brought it meanwhile
            _download(reference.address, path, reference.file, LARGEST_ARCHIVE, reference.sha256, show_progressbar)
    return path


def _no_hash(reference: ArchiveReference, folder: Path, show_progressbar) -> ValueError:
    """Download what has no hash, keep it by the one that it has, and tell that one."""
    with _alone(folder / safe_name(reference.file or "model.zip")) as waiting:
        try:
            _download(reference.address, waiting, reference.file, LARGEST_ARCHIVE, None, show_progressbar)
        except ConnectionError as error:
            return ValueError(
                f"{reference.text} has no hash: write #sha256=… behind it, as its author gives it. What it would be "
                f"cannot be told: {error}"
            )
        sha256 = _hash(waiting)
        os.replace(waiting, folder / f"{sha256}.zip")
    return ValueError(
        f"{reference.text} has no hash, and a file without one can be another one tomorrow. The file that is there now "
        f"has the sha256 {sha256}. If its author gives the same, load it by\n"
        f"    {reference.text}#sha256={sha256}\n"
        "It is downloaded already."
    )


# ---------------------------------------------------------------- the Hugging Face hub
def fetch_hub_model(reference: HubReference, show_progressbar: bool | None = None) -> Path:
    """Return a model folder of the Hugging Face hub, downloaded unless it is there.

    Its files are those of one commit. The sha256 of ``config.json`` is that of the reference, where it has one; that of
    the weights is in ``config.json``; and those of all files are kept beside them, and compared each time.

    Parameters
    ----------
    reference : HubReference
        With a commit.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Raises
    ------
    ValueError
        If the revision can be moved (the error names the commit that it is now), or a file has another hash.
    OSError
        If a file cannot be downloaded; the error says where to put it by hand.
    """
    if not reference.is_fixed:
        raise ValueError(_can_be_moved(reference))
    # a file system may tell capitals apart or not, the hub does not
    owner, name = reference.owner.lower(), reference.name.lower()
    folder = cache_folder() / "models" / "hub" / owner / name / reference.revision
    if not (folder / _SUMS).is_file():
        with _alone(folder / _SUMS):
            if not (folder / _SUMS).is_file():
                _download_hub_model(reference, folder, show_progressbar)
    _check_sums(folder)
    if reference.sha256 is not None and _hash(folder / _CONFIG) != reference.sha256:
        raise ValueError(
            f"{reference.text}: its {_CONFIG} has the sha256 {_hash(folder / _CONFIG)}, not {reference.sha256}, which "
            "stands behind #. Compare both with what the author of the model gives."
        )
    return folder


def _can_be_moved(reference: HubReference) -> str:
    what = f"{reference.revision!r} can be moved" if reference.revision else "the newest version changes"
    text = (
        f"{reference.text}: {what}, and the model be another one tomorrow. Write the commit behind @, 40 digits from 0 "
        "to f, as the hub shows it under 'Files'."
    )
    revision = quote(reference.revision or "main", safe="")
    path = f"api/models/{reference.owner}/{reference.name}/revision/{revision}"
    try:
        commit = Host("the Hugging Face hub", hub_endpoint(), timeout=10).get(path).get("sha")
    except (OSError, ValueError):
        return text
    if not re.fullmatch(r"[0-9a-f]{40}", str(commit)):
        return text
    return f"{text} Now it is\n    hf://{reference.owner}/{reference.name}@{commit}"


def _download_hub_model(reference: HubReference, folder: Path, show_progressbar) -> None:
    """Download the files that are not there yet, those with a hash by it, and write down the hashes of all."""
    hashes = {_CONFIG: reference.sha256}
    for file, largest in _HUB_FILES.items():
        path = folder / file
        if not path.is_file() or (hashes.get(file) and not _has_hash(path, hashes[file])):
            address = reference.address_of(file)
            _download(address, path, f"{reference.text}: {file}", largest, hashes.get(file), show_progressbar)
        if file == _CONFIG:
            hashes[_WEIGHTS] = _hash_of_weights(path)
    lines = "".join(f"{_hash(folder / file)}  {file}\n" for file in _HUB_FILES)
    with replacing(folder / _SUMS) as new:
        new.write_text(lines, encoding="ascii")


def _hash_of_weights(config: Path) -> str | None:
    """Hash that a config.json gives; None for what is no config.json, which is refused when the model is read."""
    entries = read_json(read_text(config), config)
    weights = entries.get("weights") if isinstance(entries, dict) else None
    sha256 = weights.get("sha256") if isinstance(weights, dict) else None
    return sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None


def _check_sums(folder: Path) -> None:
    """Make sure that the files are those that were downloaded."""
    pairs = [line.split() for line in read_text(folder / _SUMS, 10_000).splitlines()]
    sums = {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
    wrong = [file for file in _HUB_FILES if not _has_hash(folder / file, sums.get(file, ""))]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} in {folder} changed since it was downloaded. Delete that folder, and load the model "
            "again."
        )


# ---------------------------------------------------------------- one file
def _download(address: str, path: Path, name: str, largest: int, sha256: str | None, show_progressbar) -> None:
    """Bring a file to its place: whole, of bounded size and with its hash, or not at all."""
    _without_link(path)
    with replacing(path) as new:
        try:
            with open(new, "wb") as file:
                _stream(address, _Bounded(file, largest, name, show_progressbar))
        except OSError as error:  # which requests' errors are, too
            if error.errno is not None and not hasattr(error, "request"):
                raise _not_kept(error, path) from error
            raise _failed(error, address, path, name, sha256) from error
        found = _hash(new)
        if sha256 is not None and found != sha256:
            raise ValueError(
                f"{printable(name, 200)} from {address} has the sha256 {found}, not {sha256}: it is not the file that "
                "was meant, or was changed on the way, and it is not used. Compare with what its author gives."
            )


def _stream(address: str, file: _Bounded) -> None:
    """Write what is at an address, or where it is redirected to, which is looked at before it is asked."""
    import pooch

    with file:
        for _ in range(_MOST_REDIRECTS):
            download = pooch.HTTPDownloader(
                chunk_size=_PIECE, timeout=_TIMEOUT, allow_redirects=False, auth=_no_password,
                hooks={"response": _checked_answer(file)},
                headers={"User-Agent": "pyxem_dl", "Accept-Encoding": "identity"},
            )  # fmt: skip
            try:
                return download(address, file, None)
            except _Redirected as further:
                address = further.address
    raise ConnectionError(f"it redirects more than {_MOST_REDIRECTS} times")


def _no_password(request):
    """Send the request as it is: without an ``auth``, requests sends what a ``.netrc`` has for the host."""
    return request


class _Redirected(Exception):
    """An answer that says where the file is."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


def _checked_answer(file: _Bounded):
    """Make what looks at each answer before anything of it is read."""

    def look(answer, **_) -> None:
        target = answer.headers.get("Location")
        if answer.is_redirect and target:
            answer.close()
            further = urljoin(answer.url, target)
            check_address(further, "a redirected file", "https://example.org/my_model.zip")
            if urlsplit(answer.url).scheme == "https" and urlsplit(further).scheme != "https":
                raise ValueError(f"{answer.url} redirects to {printable(further)!r}, which is not https.")
            raise _Redirected(further)
        # a megabyte of it may unpack to a thousand, at once and in memory
        if answer.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            answer.close()
            raise ValueError(f"{answer.url} sends a packed answer that was not asked for: the file cannot be checked.")
        length = answer.headers.pop("Content-Length", "")  # pooch would read it as a number, whatever it is
        file.total = int(length[:20]) if length.isdecimal() else None
        file.check(file.total or 0)

    return look


class _Bounded:
    """A file that takes no more than so many bytes, with a progress bar as soon as there are any."""

    def __init__(self, file, largest: int, name: str, show_progressbar: bool | None) -> None:
        self._file, self._largest, self._name, self._show = file, largest, name, show_progressbar
        self.total, self._written, self._bar = None, 0, None

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()

    def check(self, size: int) -> None:
        """Refuse a size that is too large."""
        if size > self._largest:
            raise _too_large(self._name, self._largest)

    def write(self, piece: bytes) -> None:
        self._written += len(piece)
        self.check(self._written)
        self._file.write(piece)
        if self._bar is None:
            self._bar = progressbar(self.total, self._show, unit="B", scaled=True)
        self._bar.update(len(piece))

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""


def _too_large(name: str, largest: int) -> ValueError:
    size = f"{largest / 2**30:.3g} GB" if largest >= 2**30 else f"{largest / 2**20:.3g} MB"
    return ValueError(f"{printable(name, 200)} has more than {size}: it is no such file, and it is not downloaded.")


def _failed(error: OSError, address: str, path: Path, name: str, sha256: str | None) -> OSError:
    """Error that says what could not be downloaded, why, and what to do by hand."""
    name, status = printable(name, 200), getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return PermissionError(
            f"{name} is not given to everybody (HTTP {status}): {address}. It may be private, or its name misspelt. "
            f"{_by_hand(path, sha256)}"
        )
    if status in (404, 410):
        return FileNotFoundError(f"{name} is not at {address} (HTTP {status}). Check the address.")
    reason = f"HTTP {status}" if status else _reason(error)
    return ConnectionError(f"{name} cannot be downloaded from {address}: {reason}. {_by_hand(path, sha256)}")


def _not_kept(error: OSError, path: Path) -> OSError:
    """Error of the disk that says where, and what to do: it is full, or the folder cannot be written."""
    return OSError(
        error.errno,
        f"{printable(str(path), 400)} cannot be written: {error.strerror}. Make room, or name another folder by the "
        f"environment variable {CACHE}",
    )


def _by_hand(path: Path, sha256: str | None) -> str:
    if path.exists():
        return f"The file {path} that is there has another sha256 than {sha256}: it is damaged, or another one."
    kept = f" It must have the sha256 {sha256}." if sha256 else ""
    if sha256 is None and path.parent.name == "models":  # kept by a hash that is not known
        return ""
    return f"Without a network, bring that file from another computer, as {path}.{kept}"


def _reason(error: OSError) -> str:
    """Say what was wrong, without the names of requests' and urllib3's objects."""
    inner = error.args[0] if error.args else error
    text = str(getattr(inner, "reason", inner))[:1000]
    return printable(re.sub(r"^<?\w+[\w.]*(\(.*?\)| object at 0x\w+>)?: ", "", text), 200)


def _has_hash(path: Path, sha256: str) -> bool:
    return path.is_file() and _hash(path) == sha256


def _hash(path: Path) -> str:
    import pooch

    return pooch.file_hash(str(path), alg="sha256")


def _without_link(path: Path) -> None:
    """Remove a link in the place of a file that is to be written: in a folder of many, it may lead to a user's own."""
    if path.is_symlink():
        with suppress(FileNotFoundError):  # another process was faster
            path.unlink()


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Wait until no other process brings the same file."""
    _without_link(path)
    begun, told = time.monotonic(), False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claimed(path))
                break
            except BlockingIOError:
                if not told and time.monotonic() - begun > _PATIENCE:
                    say(f"Waiting for another process, which downloads {path.name} to {path.parent}.")
                    told = True
                time.sleep(0.1)
            except OSError as error:
                raise _not_kept(error, path) from error
        yield path
