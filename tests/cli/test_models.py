import hashlib
import json
import os
import pty
import subprocess
import sys
import time
import tomllib
from typing import ClassVar

import pytest
from tests.serving import LoopbackServer, QuietHandler, serving

from wordsight.cli import main
from wordsight.config import plain
from wordsight.weights.hub.catalogue import CARDS_DIRECTORY, published_card, published_cards
from wordsight.weights.hub.download import cached_file

MAX_START_S = 0.5


def test_elsewhere_than_on_a_terminal_each_model_is_a_line_of_fields(capsys):
    assert main(["models"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("\t") == ["name", "file", "px", "weights", "licence", "ImageNet", "source"]
    assert sorted(line.split("\t")[0] for line in lines) == sorted(published_cards())
    assert (
        "openai/ViT-B-32\t354 MB\t224\t151 M\tMIT (repository)\t63.2 %\t"
        "Radford et al. 2021 (arXiv 2103.00020), table 11" in lines
    )
    assert "siglip2/ViT-SO400M-14-378\t-\t378\t1,136 M\tApache-2.0\t-\t-" in lines


def test_a_card_is_printed_whole(capsys):
    assert main(["models", "ViT-B/32"]) == 0
    out = capsys.readouterr().out
    assert out == (CARDS_DIRECTORY / "openai-ViT-B-32.toml").read_text()
    assert tomllib.loads(out)["sha256"].startswith("40d36571")


def test_programs_read_json(capsys):
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {name: plain(card) for name, card in published_cards().items()}
    assert main(["models", "openai/RN50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plain(published_card("openai/RN50"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["openai/VIT-B-31"], "no published weights 'openai/VIT-B-31'; did you mean 'openai/ViT-B-32'?"),
        (["--fetch"], "--fetch needs the NAME of what is to be downloaded"),
        (["openai/RN50", "--mirror", "https://a.org"], "--mirror goes with --fetch"),
        (["openai/RN50", "--fetch", "--mirror", "a.org"], "mirror 'a.org' is not a web address"),
        (["openai/RN50", "--fetch"], "RN50.pt: not in the cache, and offline mode is on"),
        (["siglip/ViT-B-16-224", "--fetch"], "timm/ViT-B-16-SigLIP: not in the cache, and offline mode is on"),
    ],
)
def test_a_mistake_is_one_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    monkeypatch.setenv("WORDSIGHT_OFFLINE", "1")
    assert main(["models", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_what_was_fetched_is_printed_as_a_place(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    card = published_card("laion/ViT-B-16-laion400m_e32")
    path = cached_file(card)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert main(["models", card.name, "--fetch"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["models", card.name, "--fetch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": card.name, "path": str(path)}


class Mirror(QuietHandler):
    """Has something at every path, which is not what the cards know."""

    asked: ClassVar[list[str]] = []

    def respond(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"something")


def test_a_mirror_is_asked_for_the_same_path_and_not_believed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with serving(LoopbackServer(("127.0.0.1", 0), Mirror)) as server:
        assert main(["models", "ViT-B-16/laion400m_e32", "--fetch", "--mirror", server.address]) == 2
    card = published_card("laion/ViT-B-16-laion400m_e32")
    assert [f"https://github.com{path}" for path in Mirror.asked] == [card.address]
    digest = hashlib.sha256(b"something").hexdigest()
    assert f"received a file with SHA-256 {digest}, expected 55e67d44; the file was discarded" in capsys.readouterr().err
    assert not cached_file(card).exists()


def on_terminal(columns: int) -> str:
    """What the command shows on a terminal of that width."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "wordsight", "models"]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb"}
    with subprocess.Popen(command, stdout=child, stderr=child, stdin=child, env=environment):
        os.close(child)
        out = b""
        try:
            while block := os.read(parent, 1 << 16):
                out += block
        except OSError:  # how Linux tells that the other side is closed
            pass
    os.close(parent)
    return out.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_a_table_fits_and_its_sources_lie_below(columns):
    lines = on_terminal(columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines].count("openai/ViT-L-14-336") == 1
    assert sum("/" in line.split()[0] for line in lines if line[0] != "(" and line[0] != " ") == len(published_cards())
    [row] = [line for line in lines if line.startswith("openai/ViT-B-32 ")]
    assert row.endswith("63.2 % (3)")
    assert "(3) Radford et al. 2021 (arXiv 2103.00020), table 11" in lines


def test_it_starts_quickly_and_loads_no_torch():
    code = "import sys; from wordsight.cli import main; main(['models']); main(['models', 'RN50']); "
    code += "print([name for name in ('torch', 'huggingface_hub', 'transformers') if name in sys.modules])"
    times_s = []
    for _ in range(5):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times_s.append(time.perf_counter() - begin)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(times_s) < MAX_START_S
