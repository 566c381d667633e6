"""JSON answers of databases on the network: bounded in size, time and depth, and from the host that was asked only.

The standard library's ``urllib`` is used, with as little of it as will do: it follows no redirect here and opens no
file. A connection is cut when its time is over, so that a server that sends a byte a minute is given up like one that
sends none.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlencode, urljoin, urlsplit

from pyxem_dl.checks import read_json
from pyxem_dl.crystals.writing import printable

#: Largest answer in bytes: a page of 100 structures of 1,000 atoms has 10 MB
LARGEST = 32 * 2**20
_PIECE = 2**16
_LONGEST_ADDRESS = 8000
#: Redirects, and repetitions where a server asks to wait, of one request
_MOST_REDIRECTS, _MOST_TRIES = 3, 3
#: Longest wait, in seconds, that a server may ask for
_LONGEST_WAIT = 20.0


@dataclass
class Host:
    """A database that is asked, and what goes with each question.

    Parameters
    ----------
    name : str
        For messages: "the Materials Project".
    base : str
        Address that every question begins with; https, or http of this computer itself.
    timeout : float
        Seconds for one answer, from the question to its last byte.
    headers : dict
        Sent to this host only, and shown to nobody: a user's key.
    """

    name: str
    base: str
    timeout: float = 60.0
    headers: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.base = self.base.rstrip("/")
        check_address(self.base, self.name)

    def get(self, path: str, parameters: dict | None = None) -> dict:
        """Ask, and return the entries of the answer.

        Parameters
        ----------
        path : str
            Behind the base, or a whole address on the same host, as in ``links.next``.
        parameters : dict, optional
            Of the question.

        Raises
        ------
        ValueError
            If the host refuses the question, or answers with something else than a JSON object.
        OSError
            If it cannot be reached, or not in time.
        """
        address = path if "://" in path else f"{self.base}/{path.lstrip('/')}" if path else self.base
        if parameters:
            address += ("&" if "?" in address else "?") + urlencode(parameters)
        text = self._text(address)
        answer = read_json(text, f"The answer of {self.name}")
        if not isinstance(answer, dict):
            raise ValueError(f"The answer of {self.name} is no JSON object. Is {self.base} its address?")
        return answer

    def same(self, address: str) -> str:
        """Return an address on this host, as https where the host has it; a ValueError for any other."""
        ours, theirs = urlsplit(self.base), urlsplit(address)
        if theirs.scheme == "http" and ours.scheme == "https" and theirs.port in (None, 80):
            # behind a proxy many servers believe that they are asked by http
            netloc = ours.netloc if theirs.hostname == ours.hostname else theirs.netloc
            theirs = theirs._replace(scheme="https", netloc=netloc)
        mine = (ours.scheme, ours.hostname, ours.port or _port(ours.scheme))
        if (theirs.scheme, theirs.hostname, theirs.port or _port(theirs.scheme)) != mine or "@" in theirs.netloc:
            raise ValueError(
                f"{self.name} points to another place, {printable(address)!r}. Only {ours.netloc} is asked: if the "
                "database has moved, give its new address."
            )
        return theirs.geturl()

    def _text(self, address: str) -> str:
        started, redirects, tries = time.monotonic(), 0, 0
        while True:
            if len(address) > _LONGEST_ADDRESS:
                raise ValueError(f"The question for {self.name} is longer than {_LONGEST_ADDRESS} letters. Shorten it.")
            status, headers, body = self._ask(self.same(address), started)
            if 300 <= status < 400 and headers.get("Location"):
                redirects += 1
                if redirects > _MOST_REDIRECTS:
                    raise ValueError(f"{self.name} redirects without end. Is {self.base} its address?")
                address = urljoin(address, headers["Location"])
                continue
            wait = _seconds(headers.get("Retry-After"))
            if status in (429, 503) and tries < _MOST_TRIES and wait + time.monotonic() - started < self.timeout:
                tries += 1
                time.sleep(wait)
                continue
            if status != 200:
                raise self._refused(status, body)
            return self._decoded(body)

    def _ask(self, address: str, started: float):
        request = urllib.request.Request(address, headers={
            "Accept": "application/vnd.api+json, application/json", "Accept-Encoding": "identity",
            "User-Agent": "pyxem_dl", **self.headers,
        })  # fmt: skip
        with _Watch(self._left(started)) as watch:
            try:
                with _opener(watch).open(request, timeout=self._left(started)) as answer:
                    if answer.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
                        raise ValueError(f"{self.name} sends a packed answer that was not asked for.")
                    return answer.status, answer.headers, self._body(answer, started)
            except (OSError, http.client.HTTPException) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                if watch.is_over or isinstance(reason, TimeoutError):
                    raise self._late() from None
                raise self._unreachable(reason) from None

    def _body(self, answer, started: float) -> bytes:
        parts, size = [], 0
        while piece := answer.read1(_PIECE):
            size += len(piece)
            if size > LARGEST:
                raise ValueError(
                    f"An answer of {self.name} has more than {LARGEST >> 20} MB. Ask for fewer structures: narrow the "
                    "query."
                )
            parts.append(piece)
        self._left(started)  # a cut connection looks like the end
        return b"".join(parts)

    def _left(self, started: float) -> float:
        left = started + self.timeout - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _late(self) -> OSError:
        return TimeoutError(
            f"{self.name} did not answer within {self.timeout:g} s. Try again later, narrow the query, or give a "
            "longer timeout="
        )

    def _unreachable(self, reason) -> OSError:
        return ConnectionError(
            f"{self.name} ({urlsplit(self.base).netloc}) cannot be reached: {printable(str(reason), 200)}. Check the "
            "network connection; without one, use 'prototypes' or a folder of CIF files"
        )

    def _refused(self, status: int, body: bytes) -> Exception:
        said = self._hidden(printable(_reason(body), 300))
        told = f" It says: {said}" if said else ""
        if status in (401, 403):
            return PermissionError(f"{self.name} refuses access (HTTP {status}). Check your key.{told}")
        if status in (429, 503):
            return ConnectionError(f"{self.name} is busy (HTTP {status}). Try again later.{told}")
        if status >= 500:
            return ConnectionError(f"{self.name} has a fault (HTTP {status}). Try again later.{told}")
        return ValueError(f"{self.name} does not understand the question (HTTP {status}). Check the query.{told}")

    def _hidden(self, text: str) -> str:
        """Text without what is sent in headers, which an answer may repeat."""
        for value in self.headers.values():
            text = text.replace(value, "***") if value else text
        return text

    def _decoded(self, body: bytes) -> str:
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"The answer of {self.name} is no text in UTF-8 ({error.reason}).") from None


class _Watch:
    """Cuts the connections that were made within it when a time is over.

    Parameters
    ----------
    seconds : float
        How long they may live.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> _Watch:
        self._timer.start()
        return self

    def __exit__(self, *error) -> None:
        self._timer.cancel()
        for each in self._sockets:
            each.close()

    def _cut(self) -> None:
        self.is_over = True
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def connect(self, *args, **kwargs) -> socket.socket:
        """Make a connection as ``socket.create_connection`` does, and keep a handle of it."""
        made = socket.create_connection(*args, **kwargs)
        self._sockets.append(made.dup())
        return made


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """Make an opener for http and https, through the user's proxy, that follows nothing and raises for no status."""

    def watched(kind: type) -> type:
        class Connection(kind):
            def __init__(self, *args, **kwargs) -> None:
                super().__init__(*args, **kwargs)
                self._create_connection = watch.connect  # what http.client calls before TLS begins

        return Connection

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(watched(http.client.HTTPConnection), request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request):
            context = ssl.create_default_context()
            return self.do_open(watched(http.client.HTTPSConnection), request, context=context)

    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), Http(), Https()):
        opener.add_handler(handler)
    return opener


def check_address(address: str, name: str, example: str = "https://example.org/optimade") -> None:
    """Refuse what is no address of a web server; http only of this computer itself.

    Parameters
    ----------
    address : str
        Of a database or a file.
    name : str
        What is there, for the error: "the Materials Project".
    example : str
        What such an address looks like, for the error.

    Raises
    ------
    ValueError
        With what it should be.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or "@" in parts.netloc or not re.fullmatch(r"[\x21-\x7e]+", address):
        raise ValueError(f"{printable(address)!r} is no web address: give one like {example!r}.")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(host)):
        raise ValueError(f"{printable(address)!r}: {name} is asked by https:// only.")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(scheme: str) -> int:
    return {"https": 443, "http": 80}.get(scheme, -1)


def _seconds(text: str | None) -> float:
    """Seconds that a server asks to wait; a second where it says nothing usable."""
    wait = float(text) if text and re.fullmatch(r"\d{1,6}", text.strip()) else 1.0
    return min(wait, _LONGEST_WAIT)


def _reason(body: bytes) -> str:
    """Find what an answer says of its refusal: OPTIMADE's errors, or the Materials Project's."""
    text = body[:20_000].decode("utf-8", "replace")
    try:
        answer = read_json(text, "the answer")
    except ValueError:
        return "" if text.lstrip().startswith("<") else text[:300]
    if isinstance(answer, dict):
        errors = answer.get("errors")
        first = errors[0] if isinstance(errors, list) and errors else {}
        said = first.get("detail") or first.get("title") if isinstance(first, dict) else None
        return str(said or answer.get("detail") or answer.get("message") or answer.get("error") or "")
    return ""
