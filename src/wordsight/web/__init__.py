"""Addresses to files.

connection.py  one connection: faults of the moment and final ones, offline, the first bytes of an address
fetch.py       a whole file, continued where it broke off, checked before it appears
"""

from wordsight.web.connection import Patience, ask, is_offline
from wordsight.web.fetch import Progress, fetch_file

__all__ = ["Patience", "Progress", "ask", "fetch_file", "is_offline"]
