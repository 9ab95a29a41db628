"""Downloads over HTTP. A server is not trusted: its headers, sizes, redirects and speed are checked or limited.

address.py      URLs, checked, and shown without credentials
connection.py   one request: redirects, and which failures are worth a retry
limits.py       limits on the time and bytes of a response
fetch.py        one file: resumed after an interruption, and verified before it appears under its name
"""

from wordsight.web.address import Address, parse_address, without_credentials
from wordsight.web.connection import Patience, StatusError, ask, read_url
from wordsight.web.fetch import MAX_FILE_BYTES, Progress, fetch_file, git_sha1_file, is_there

__all__ = [
    "MAX_FILE_BYTES",
    "Address",
    "Patience",
    "Progress",
    "StatusError",
    "ask",
    "fetch_file",
    "git_sha1_file",
    "is_there",
    "parse_address",
    "read_url",
    "without_credentials",
]
