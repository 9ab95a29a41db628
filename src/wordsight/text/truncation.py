"""How many texts lose their end because they are longer than a model's context."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from wordsight.text.families import TextTokenizer

_TEXTS_PER_BATCH = 4096


@dataclass
class TruncationCounts:
    """Counts texts that are truncated, and those that become equal to another text by it.

    Attributes:
        num_texts: number of texts so far, repeated ones included.
        num_truncated: number of texts that were longer than the context.
        num_equal: number of these whose ids are also those of another, different text.
        first_truncated: the first such text; empty if there is none.
    """

    num_texts: int = 0
    num_truncated: int = 0
    num_equal: int = 0
    first_truncated: str = ""
    _text_of_ids: dict[bytes, str] = field(default_factory=dict, repr=False)

    def add(self, tokenizer: TextTokenizer, texts: Iterable[str]) -> None:
        """Tokenize and count texts.

        Raises:
            TextError: something is not a string.
        """
        for batch in _batches(texts):
            rows: list[int] = []
            ids = tokenizer(batch, on_truncated=rows.append)
            self.num_texts += len(batch)
            self.num_truncated += len(rows)
            for row in rows:
                self.first_truncated = self.first_truncated or batch[row]
                text = self._text_of_ids.setdefault(ids[row].tobytes(), batch[row])
                self.num_equal += text != batch[row]


def _batches(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, _TEXTS_PER_BATCH)):
        yield batch
