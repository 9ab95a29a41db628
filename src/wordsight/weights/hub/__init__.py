"""Published weights: a catalogue of cards, and how the files are downloaded.

catalogue.py     the cards in cards/*.toml, one file per checkpoint; adding published weights is adding a card
download.py      name of a card, or hf-hub:owner/name -> path in the cache
repository.py    repositories on the Hugging Face hub or a mirror of it: the files that a model needs
listing.py       the hub's API: names, sizes and hashes of the files of a repository
snapshots.py     downloaded repositories on disk
digests.py       SHA-256 of large files, computed once
"""
