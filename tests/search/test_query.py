from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import tiny_clip, write_images

from wordsight.errors import ConfigError
from wordsight.search import build_query, embed_query


def test_a_query_is_the_weighted_sum_scaled_to_unit_length(tmp_path):
    clip = tiny_clip()
    (path,) = write_images(tmp_path, 1)
    parts = build_query(["a dog", "snow"], [path], [1, -0.5, 2])
    total = clip.embed_texts("a dog")[0] - 0.5 * clip.embed_texts("snow")[0] + 2 * clip.embed_images([path])[0]
    np.testing.assert_allclose(embed_query(clip, parts), total / np.linalg.norm(total), atol=1e-6)


def test_parts_that_cancel_each_other_out_are_refused():
    parts = build_query(["a dog", "a dog"], [], [1, -1])
    with pytest.raises(ConfigError, match=r"cancel each other out \('a dog', -1 x 'a dog'\); change a weight"):
        embed_query(tiny_clip(), parts)


@pytest.mark.parametrize(
    ("texts", "images", "weights", "message"),
    [
        ([], [], None, "an empty query; give a text, such as 'a dog on a beach', or --image FILE"),
        (["  "], [], None, "an empty text in the query"),
        (["a"], [Path("b.jpg")], [1], r"1 weight for 2 parts of the query \('a', image b.jpg\); give one for each"),
        (["a"], [], [0], "weight 0: expected a number other than 0"),
        (["a"], [], [float("nan")], "weight nan: expected a number"),
    ],
)
def test_bad_queries(texts, images, weights, message):
    with pytest.raises(ConfigError, match=message):
        build_query(texts, images, weights)
