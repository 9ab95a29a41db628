"""Files of class names: the formats that datasets have are read with the names of the dataset, others are refused."""

import json
import os
from pathlib import Path

import pytest

from wordsight.data.class_files import MAX_CLASS_FILE_BYTES, MAX_YAML_BYTES, parse_classes, read_class_file
from wordsight.data.class_names import read_label_names
from wordsight.data.named_class import MAX_CLASSES, MAX_NAME_CHARACTERS
from wordsight.errors import DataError

DOG_AND_CAT = [("dog",), ("cat",)]


def names(content: str | bytes, suffix: str) -> list[tuple[str, ...]]:
    return [named.names for named in parse_classes(content.encode() if isinstance(content, str) else content, suffix)]


def refusal(content: str | bytes, suffix: str) -> str:
    with pytest.raises(DataError) as caught:
        names(content, suffix)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".txt", "dog\ncat\n"),
        (".txt", "# mine\n\ndog\n  # more\ncat"),
        (".names", "dog\r\ncat\r\n\r\n"),
        ("", "dog\rcat"),
        (".txt", '["dog", "cat"]'),
        (".json", '["dog", "cat"]'),
        (".json", '{"names": ["dog", "cat"]}'),
        (".json", '{"dog": 0, "cat": 1}'),
        (".json", '{"cat": 1, "dog": 0}'),
        (".json", '{"id2label": {"0": "dog", "1": "cat"}, "label2id": {"dog": 0, "cat": 1}, "hidden_size": 768}'),
        (".json", '{"0": ["n02084071", "dog"], "1": ["n02121620", "cat"]}'),
        (
            ".json",
            '{"images": [], "annotations": [], "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]}',
        ),
        (".yaml", "- dog\n- cat\n"),
        (".yml", "names:\n  0: dog\n  1: cat\nnc: 2\n"),
        (".yaml", "path: ../coco\ntrain: images\nnc: 2\nnames: ['dog', 'cat']\n"),
        (".yaml", "0: dog\n1: cat\n"),
        (".csv", "id,name\n0,dog\n1,cat\n"),
        (".csv", "label,class_name\n0,dog\n1,cat\n"),
        (".csv", "label,class\n0,dog\n1,cat\n"),
        (".csv", "Name\ndog\n\ncat\n"),
        (".csv", "name,\ndog,\ncat,\n"),
        (".csv", "id;name\r\n0;dog\r\n1;cat\r\n"),
        (".csv", 'name,n\n"dog",1\n"cat",2\n'),
        (".tsv", "id\tname\n0\tdog\n1\tcat\n"),
        (".txt", "n02084071 dog\nn02121620 cat\n"),
        (".txt", "n02084071 151 dog\nn02121620 281 cat\n"),
        (".txt", "n02084071\tdog\nn02121620\tcat\n"),
    ],
)
def test_the_usual_formats_give_the_names(suffix: str, content: str) -> None:
    assert names(content, suffix) == DOG_AND_CAT
    assert names(b"\xef\xbb\xbf" + content.encode(), suffix) == DOG_AND_CAT
    assert names(content.encode("utf-16"), suffix) == DOG_AND_CAT


def test_published_lists_are_read_with_their_synonyms_and_without_underscores() -> None:
    synsets = "n01440764 tench, Tinca tinca\nn01484850 great white shark, white shark\n"
    assert names(synsets, ".txt") == [("tench", "Tinca tinca"), ("great white shark", "white shark")]
    assert names('{"2": ["n01484850", "great_white_shark"]}', ".json") == [("great white shark",)]
    assert names("n01484850 3 great_white_shark\n", ".txt") == [("great white shark",)]
    birds = "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n"
    assert names(birds, ".txt") == [("Black footed Albatross",), ("Laysan Albatross",)]
    assert names("001.Black_footed_Albatross\n002.Laysan_Albatross\n", ".txt") == names(birds, ".txt")


def test_quotation_marks_are_ordinary_characters_in_tsv_and_yaml_words_stay_words() -> None:
    assert names('name\n"dog\ncat\n', ".tsv") == [('"dog',), ("cat",)]
    assert names("names: [no, on, null, 1e3]", ".yaml") == [("no",), ("on",), ("null",), ("1e3",)]


def test_names_that_begin_with_numbers_are_kept_if_they_do_not_count() -> None:
    assert names("2 dogs\n5 cats\n", ".txt") == [("2 dogs",), ("5 cats",)]
    assert names("0\n1\n2\n", ".txt") == [("0",), ("1",), ("2",)]


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        (".txt", "0 dog\n1 cat\n", "its lines are numbered: '0 dog'"),
        (".txt", "1. dog\n2. cat\n", "its lines are numbered"),
        (".txt", "id,name\n0,dog\n1,cat\n", "its lines are numbered"),
        (".txt", "dog,cat,bird\n", "one line with commas"),
        (".txt", "dog,\ncat,\n", "line 1, 'dog,': ends with ','"),
        (".txt", '"dog"\n"cat"\n', "every line is in quotation marks"),
        (".txt", "- dog\n- cat\n", "every line begins with '- '"),
        (".txt", "dog\n// the rest\ncat\n", "line 2, '// the rest': looks like a comment"),
        (".txt", "dog # mine\ncat\n", "line 1, 'dog # mine': a comment needs a line of its own"),
        (".txt", "names:\n  0: dog\n", "line 1, 'names:': ends with a colon"),
        (".txt", "dog\t0\ncat\t1\n", "line 1, 'dog\\t0': contains a tab"),
        (".txt", "n02084071\nn02121620\n", "'n02084071' is a WordNet id, not a name"),
        (".txt", "n02084071 dog\ncat\n", "'cat' has no WordNet id and a name"),
        (".txt", "{0: 'dog',\n 1: 'cat'}", "begins with '{' but is not JSON"),
        (".txt", "<!DOCTYPE html>\n<html>", "begins with '<!DOCTYPE html>', not with a name"),
        (".txt", "version https://git-lfs.github.com/spec/v1\noid sha256:1", "begins with 'version https"),
        (".txt", "dog\n  cat\n", "line 2 is indented"),
        (".txt", "d\0o\0g\0", "contains null characters"),
        (".txt", b"caf\xe9\n", "not UTF-8 at byte 3"),
        (".txt", b"\xff\xfed", "not UTF-8 at byte"),
        (".txt", "a" * (MAX_NAME_CHARACTERS + 1), "more than 2,000"),
        (".csv", "0,dog\n1,cat\n", "no column of names (class_name, "),
        (".csv", "dog\ncat\n", "no column of names"),
        (".csv", "id,label\n7,0\n8,1\n", "column 'label' has numbers, not names"),
        (".csv", 'name\n"dog\ncat\n', "check the quotation marks"),
        (".csv", "id,name\n0,\n1,cat\n", "row 2: expected a name, found ''"),
        (".csv", "wnid,name\n1,n02084071\n", "'n02084071' is a WordNet id"),
        (
            ".yaml",
            "path: ../coco\ntrain: images\n",
            "no key 'names' with a list of names; the keys are 'path', 'train'",
        ),
        (".yaml", "names: [dog, cat]\nnc: 80\n", "nc is 80, but there are 2 names"),
        (".yaml", "names: {0: dog, 0: cat}\n", "the key '0' occurs twice"),
        (".yaml", "names: {animal: {dog: 1}}", "label 'animal' is an object"),
        (".yaml", "&a [*a]", "not YAML"),
        (".yaml", "[" * 100_000, "not YAML"),
        (".yaml", "dog: [", "not YAML"),
        (".yaml", "dog", "expected a list of class names"),
        (".yaml", "!!python/object/apply:os.system [x]\n...\n---\n", "not YAML"),
        (".yaml", "- " + "x" * MAX_YAML_BYTES, "of YAML"),
        (".json", '{"0": "dog", "0": "cat"}', "the key '0' occurs twice"),
        (".json", '{"dog": 0, "cat": 0}', "two names have the same number"),
        (".json", '{"animal": {"dog": {}}}', "label 'animal' is an object; expected a name (a hierarchy is"),
        (".json", "[" * 100_000, "not JSON"),
        (".json", "[1, 2]", "label 0: expected a name, found 1"),
        (".json", '["\\ud800"]', "is not valid Unicode"),
        (".json", '["\\u200b"]', "expected a name"),
        (".json", '["dog", null]', "label 1: expected a name, found NoneType"),
        (".json", json.dumps(["x" * 10_000_000]), "10,000,000 characters"),
        (".json", json.dumps(["x"] * (MAX_CLASSES + 1)), "250,001 names; expected at most 250,000"),
        (".csv", "name\n" + "x\n" * (MAX_CLASSES + 1), "more than 250,000 rows"),
        (".csv", "\n" * 600_000, "more than 500,000 lines"),
        (".csv", "name," * 2000, "row 1: 2,001 columns"),
        (".csv", ",".join(f"column {number}" for number in range(900)) + "\n1,2\n", "no column of names"),
        (".txt", "x\n" * (2 * MAX_CLASSES + 1), "500,001 lines; expected at most 500,000"),
    ],
)
def test_what_is_not_a_list_of_names_is_refused(suffix: str, content: str | bytes, reason: str) -> None:
    if ".yaml" in suffix and "!!python" in str(content):
        content = "names: !!python/object/apply:os.system [touch x]\n--- a"  # a second document; no tag is ever applied
    assert reason in refusal(content, suffix)


def test_only_regular_files_of_names_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "big.txt").write_bytes(b"")
    os.truncate(tmp_path / "big.txt", MAX_CLASS_FILE_BYTES + 1)
    for path, reason in [
        (tmp_path, "a directory; expected"),
        (tmp_path / "fifo.txt", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "big.txt", "larger than 8,388,608 bytes"),
        (tmp_path / "a.parquet", ".parquet files are not read"),
        (tmp_path / "no.txt", "No such file"),
    ]:
        with pytest.raises(DataError) as caught:
            read_class_file(path)
        assert str(caught.value).startswith(reason)


def test_names_of_labelled_data_are_identified_by_number_id_or_directory(tmp_path: Path) -> None:
    def names_of(file: str, content: str, label: str | int, **values: str) -> tuple[str, ...]:
        (tmp_path / file).write_text(content)
        return read_label_names(tmp_path / file).names_of(label, values, ("001.Black_footed_Albatross",))

    index = '{"0": ["n01440764", "tench"], "1": ["n01443537", "gold_fish"]}'
    assert names_of("imagenet_class_index.json", index, 1) == ("gold fish",)
    assert names_of("imagenet_class_index.json", index, "n01440764") == ("tench",)
    assert names_of("classes.txt", "1 001.Black_footed_Albatross\n", "?") == ("Black footed Albatross",)
    assert names_of("data.yaml", "names:\n  3: dog\n  1: cat\n", 3) == ("dog",)
    assert names_of("names.csv", "id,name\n7,dog\n9,cat\n", "9") == ("cat",)
    assert names_of("names.txt", "dog\ncat\n", 1) == ("cat",)
    assert names_of("synset_words.txt", "n01440764 tench, Tinca tinca\n", "a", wnid="n01440764") == (
        "tench",
        "Tinca tinca",
    )
    with pytest.raises(DataError, match=r"twice.json: '1' identifies both 'dog' and 'cat'"):
        names_of("twice.json", '[{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]', 1)
    with pytest.raises(DataError, match=r"empty.txt: expected a list of class names"):
        names_of("empty.txt", "# nothing\n", 1)
