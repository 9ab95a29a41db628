"""Addresses to files.

connection.py  one connection: faults of the moment and final ones, the first bytes of an address
fetch.py       a whole file, continued where it broke off, checked before it appears
"""

from wordsight.web.connection import Patience, ask
from wordsight.web.fetch import Progress, fetch_file, is_there

__all__ = ["Patience", "Progress", "ask", "fetch_file", "is_there"]
