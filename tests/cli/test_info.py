import json
import platform
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import torch

import wordsight
from wordsight.cli import environment, main
from wordsight.parallel import available_cpus


def test_versions_devices_extras_and_cache_are_printed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"wordsight  {wordsight.__version__} (" in printed
    assert f"Python     {platform.python_version()}" in printed
    assert f"  torch {metadata.version('torch')}\n" in printed
    assert f", {available_cpus()} of " in printed
    assert f"cache: {tmp_path / 'cache'}\n" in printed
    assert f"  WORDSIGHT_CACHE={tmp_path / 'cache'}\n" in printed


def test_json_has_the_same_facts(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    assert main(["info", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["packages"]["numpy"] == np.__version__
    assert result["devices"][0]["name"] == "cpu"
    assert result["devices"][0]["num_available_cpus"] == available_cpus()
    assert result["cache"]["path"] == str(tmp_path)
    assert result["environment"]["WORDSIGHT_CACHE"] == str(tmp_path)
    assert result["torch_error"] == ""
    extra = result["extras"]["report"]
    assert extra["installed"] == (not extra["missing"])
    assert extra["install"] == "pip install 'wordsight[report]'"


def test_extras_of_the_package_are_listed_without_those_for_development(monkeypatch, capsys):
    requirements = [
        "torch>=2.6",
        'no-such-package>=1; extra == "report"',
        "numpy; extra == 'report'",
        "numpy; extra == 'fast'",
        'pytest>=8; extra == "dev"',
        'wordsight[fast,report]; extra == "all"',
    ]
    monkeypatch.setattr(environment.metadata, "requires", lambda name: requirements)
    assert main(["info", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {name: extra["missing"] for name, extra in result["extras"].items()} == {
        "report": ["no-such-package"],
        "fast": [],
    }
    assert list(result["packages"]) == ["numpy", "torch"]
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "  report     missing no-such-package; pip install 'wordsight[report]'\n" in printed
    assert "  fast       installed\n" in printed


def test_package_without_metadata_is_no_error(monkeypatch, capsys):
    def raise_not_found(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.metadata, "requires", raise_not_found)
    assert main(["info"]) == 0
    assert "wordsight  " in capsys.readouterr().out


SECRETS = {
    "HF_TOKEN": "hf_secret1",
    "HTTPS_PROXY": "http://user:secret2@proxy.example.org:3128/?key=secret3",
    "HF_ENDPOINT": "https://secret4@mirror.example.org/hub?token=secret5#secret6",
    "http_proxy": "user:secret7@proxy.example.org:80",
    "https_proxy": "http://user:secret/9?secret#secret@[proxy.example.org:80",
    "AWS_SECRET_ACCESS_KEY": "secret8",
}


def test_paths_and_plain_values_are_printed_unchanged(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "a#b"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main(["info", "--json"]) == 0
    variables = json.loads(capsys.readouterr().out)["environment"]
    assert variables["WORDSIGHT_CACHE"] == str(tmp_path / "a#b")
    assert variables["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_credentials_are_never_printed(monkeypatch, capsys, options):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert main(["info", *options]) == 0
    printed = capsys.readouterr().out
    assert "secret" not in printed.lower()
    assert "http://proxy.example.org:3128/" in printed
    assert "https://mirror.example.org/hub" in printed
    assert "(set)" in printed


def test_accelerators_are_listed_with_their_memory(monkeypatch, capsys):
    class Properties:
        name = "NVIDIA H100"
        total_memory = 85_000_000_000

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "  cuda:0: NVIDIA H100, 85.0 GB of memory\n" in printed
    assert "  cuda:1: NVIDIA H100" in printed


def test_installation_without_a_working_torch_is_described(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["info"]) == 0
    assert "torch cannot be imported: " in capsys.readouterr().out


def test_closed_pipe_ends_the_command_silently():
    process = subprocess.run(
        f"{sys.executable} -m wordsight info | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("wordsight")
    assert process.stderr == ""
