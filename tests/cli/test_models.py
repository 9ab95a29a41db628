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


def test_redirected_list_has_one_tab_separated_line_per_model(capsys):
    assert main(["models"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["name", "file", "px", "weights", "licence", "ImageNet", "source"]
    assert sorted(line.split("\t")[0] for line in lines) == sorted(published_cards())
    assert (
        "openai/ViT-B-32\t354 MB\t224\t151 M\tMIT (repository)\t63.2 %\t"
        "Radford et al. 2021 (arXiv 2103.00020), table 11" in lines
    )
    assert "siglip2/ViT-SO400M-14-378\t-\t378\t1,136 M\tApache-2.0\t-\t-" in lines


def test_card_is_printed_as_its_toml_file(capsys):
    assert main(["models", "ViT-B/32"]) == 0
    out = capsys.readouterr().out
    assert out == (CARDS_DIRECTORY / "openai-ViT-B-32.toml").read_text()
    assert tomllib.loads(out)["sha256"].startswith("40d36571")


def test_json_contains_all_fields_of_the_cards(capsys):
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {name: plain(card) for name, card in published_cards().items()}
    assert main(["models", "openai/RN50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plain(published_card("openai/RN50"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["openai/VIT-B-31"], "`wordsight models` lists them; did you mean 'openai/ViT-B-32'?"),
        (["--fetch"], "--fetch requires the NAME of the model to download"),
        (["openai/RN50", "--mirror", "https://a.org"], "--mirror has no effect without --fetch"),
        (["openai/RN50", "--fetch", "--mirror", "a.org"], "mirror 'a.org' is not a web address"),
        (["openai/RN50", "--fetch"], "RN50.pt: not in the cache, and offline mode is on"),
        (["siglip/ViT-B-16-224", "--fetch"], "timm/ViT-B-16-SigLIP: not in the cache, and offline mode is on"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    monkeypatch.setenv("WORDSIGHT_OFFLINE", "1")
    assert main(["models", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_path_of_a_fetched_model_is_printed(capsys, monkeypatch, tmp_path):
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
    """Serves the same wrong content at every path."""

    requested: ClassVar[list[str]] = []

    def respond(self) -> None:
        self.requested.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"something")


def test_download_from_a_mirror_is_checked_against_the_hash_in_the_card(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with serving(LoopbackServer(("127.0.0.1", 0), Mirror)) as server:
        assert main(["models", "ViT-B-16/laion400m_e32", "--fetch", "--mirror", server.address]) == 2
    card = published_card("laion/ViT-B-16-laion400m_e32")
    assert [f"https://github.com{path}" for path in Mirror.requested] == [card.address]
    digest = hashlib.sha256(b"something").hexdigest()
    assert (
        f"received a file with SHA-256 {digest}, expected 55e67d44; the file was discarded" in capsys.readouterr().err
    )
    assert not cached_file(card).exists()


def run_in_terminal(columns: int) -> str:
    """The output of `wordsight models` in a terminal of this width."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "wordsight", "models"]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb"}
    with subprocess.Popen(command, stdout=child, stderr=child, stdin=child, env=environment):
        os.close(child)
        out = b""
        try:
            while block := os.read(parent, 1 << 16):
                out += block
        except OSError:  # raised on Linux when the other end is closed
            pass
    os.close(parent)
    return out.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 200])
def test_table_fits_the_terminal_and_numbers_its_sources(columns):
    lines = run_in_terminal(columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines].count("openai/ViT-L-14-336") == 1
    assert sum("/" in line.split()[0] for line in lines if line[0] != "(" and line[0] != " ") == len(published_cards())
    [row] = [line for line in lines if line.startswith("openai/ViT-B-32 ")]
    assert row.endswith("63.2 % (3)")
    assert "(3) Radford et al. 2021 (arXiv 2103.00020), table 11" in lines


def test_listing_models_is_fast_and_does_not_load_torch():
    code = "import sys; from wordsight.cli import main; main(['models']); main(['models', 'RN50']); "
    code += "print([name for name in ('torch', 'huggingface_hub', 'transformers') if name in sys.modules])"
    times_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times_s.append(time.perf_counter() - start_s)
    assert process.stdout.splitlines()[-1] == "[]"
    assert min(times_s) < MAX_START_S
