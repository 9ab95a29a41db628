"""Addresses of web servers: checked before a connection is opened, and never shown with their credentials."""

import base64
import ipaddress
import re
import socket
import urllib.parse
from typing import Any

import msgspec

from wordsight.errors import DownloadError, printable

MAX_URL_CHARS = 8192
"""Longest URL: RFC 9110 (section 4.1) recommends 8,000 bytes; signed URLs of S3 have about 2,000."""

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[0-9A-Za-z_](?:[0-9A-Za-z._-]{0,252})")
_UNQUOTED = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986, section 2.2, and %, which begins what is quoted already


class Address(msgspec.Struct, frozen=True):
    """The address of a file on a web server. As a string, it has neither credentials nor a query.

    Attributes:
        url: the URL, in ASCII, without user name, password and fragment.
        authorization: value of the header Authorization, sent only to the origin of `url`; empty if there is none.
    """

    url: str
    authorization: str = ""

    def __str__(self) -> str:
        return self.url.partition("?")[0]

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        parts = urllib.parse.urlsplit(self.url)
        return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]

    def redirected(self, location: str) -> "Address":
        """Return the address to which a response of this address redirects, without credentials if its origin differs.

        Raises:
            DownloadError: the address is not valid, is neither http nor https, is http although this one is https, or
                leads from a public server into a private network.
        """
        try:
            url = urllib.parse.urljoin(self.url, location)
            scheme = urllib.parse.urlsplit(url).scheme
        except ValueError as error:
            raise DownloadError(f"{self}: redirected to an address that is not valid; use another server") from error
        if scheme not in _PORTS or (self.origin[0] == "https" and scheme != "https"):
            raise DownloadError(
                f"{self}: redirected to {printable(scheme)[:20]!r}, which is not a web address, or from https to http; "
                "use another server"
            )
        target = parse_address(url)
        if target.origin == self.origin:
            return msgspec.structs.replace(target, authorization=self.authorization)
        if target.origin[1] != self.origin[1] and _is_private(target.origin[1]) and not _is_private(self.origin[1]):
            raise DownloadError(f"{self}: redirected into a private network, to {target}; use another server")
        return target


def parse_address(url: str | Address, token: str = "") -> Address:
    """Check a URL.

    Args:
        url: an http or https URL. A user name and a password in it become basic authorization (RFC 7617).
        token: a bearer token (RFC 6750), used instead of a password in the URL.

    Raises:
        DownloadError: the URL is not valid; the message does not contain its credentials.
    """
    if isinstance(url, Address):
        return url
    shown = printable(without_credentials(url))
    if len(url) > MAX_URL_CHARS:
        raise DownloadError(f"{shown[:100]}...: {len(url):,} characters, expected at most {MAX_URL_CHARS:,}")
    if re.search(r"[\x00-\x20\x7f\\]", url) or not url.isprintable():
        raise DownloadError(f"{shown}: not a valid URL: it contains a space, a backslash or a control character")
    try:
        parts = urllib.parse.urlsplit(url)
        host = _ascii_host(parts.hostname or "", is_bracketed="[" in parts.netloc)
    except ValueError:
        raise DownloadError(f"{shown}: not a valid URL: invalid host") from None  # the cause may quote a password
    if parts.scheme not in _PORTS or not host:
        raise DownloadError(f"{shown}: not a web address; expected one that begins with http:// or https://")
    try:
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        raise DownloadError(f"{shown}: not a valid URL: nonnumeric port, or one above 65535") from None
    path = urllib.parse.quote(parts.path or "/", safe=_UNQUOTED)
    clean = urllib.parse.urlunsplit(
        (parts.scheme, host + port, path, urllib.parse.quote(parts.query, safe=_UNQUOTED), "")
    )
    return Address(clean, _authorization(parts, token))


def without_credentials(value: str) -> str:
    """Return a URL without user name, password, query and fragment, any of which can be a secret.

    Other texts, such as `user:password@host`, lose everything up to the last `@`: hiding too much is better than
    revealing a password, which may contain any character.
    """
    scheme, separator, rest = value.partition("://") if "://" in value else ("", "", value)
    if not separator and "@" not in rest:
        return value
    return scheme + separator + re.split("[?#]", rest.rpartition("@")[2])[0]


def _ascii_host(host: str, is_bracketed: bool) -> str:
    """Return a host as it is sent: international names in Punycode, IPv6 addresses in brackets.

    Raises:
        ValueError: it is none of these.
    """
    if is_bracketed:
        return f"[{ipaddress.IPv6Address(host.partition('%')[0])}]"
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if host and not _HOST.fullmatch(host):
        raise ValueError("invalid host")
    return host


def _authorization(parts: urllib.parse.SplitResult, token: str) -> str:
    if token:
        return f"Bearer {token}"
    if parts.username is None:
        return ""
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _is_private(host: str) -> bool:
    """Return whether one of a host's addresses is not on the public Internet; False if it cannot be resolved here."""
    try:
        entries: list[Any] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return any(not ipaddress.ip_address(entry[4][0].partition("%")[0]).is_global for entry in entries)
    except (OSError, ValueError):
        return False
