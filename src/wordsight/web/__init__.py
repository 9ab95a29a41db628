"""Downloads over HTTP.

connection.py   one connection, and which of its failures are worth a retry
fetch.py        one file: resumed after an interruption, and verified before it appears under its name
"""

from wordsight.web.connection import Patience, ask
from wordsight.web.fetch import Progress, fetch_file, is_there

__all__ = ["Patience", "Progress", "ask", "fetch_file", "is_there"]
