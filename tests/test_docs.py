"""The docs cannot drift from the code: the reference is complete, code blocks run, links and paths exist."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import typer.main

import wordsight
from tests.code_blocks import run_blocks
from tests.conftest import ROOT
from wordsight import errors
from wordsight.cli import build_app
from wordsight.training.recipe import Recipe
from wordsight.weights.card import Card
from wordsight.weights.hub.catalogue import PublishedCard

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
RUNNABLE = [page for page in PAGES if re.search(r"^```(bash|python)$", page.read_text("utf-8"), re.MULTILINE)]

NEEDED_PACKAGES = {"video": ["av"], "use-embeddings-in-other-programs": ["pandas", "duckdb", "polars"]}

EXIT_CODES = (0, 1, 2, 130, 141)
VARIABLE = re.compile(r"""["']([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)["']""")


def load_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


reference = load_reference()


def rendered(name: str) -> str:
    """A page of the reference as MkDocs receives it from the generator."""
    page = reference.on_page_markdown((DOCS / "reference" / name).read_text("utf-8"))
    assert "<!-- generated" not in page
    return page


# --- completeness of the reference ---


def public_names() -> list[str]:
    names = [f"wordsight.{name}" for name in wordsight.__all__ if name != "errors"]
    return names + [f"wordsight.errors.{name}" for name, value in vars(errors).items() if is_error(value)]


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.WordsightError)


def missing_names(page: str) -> list[str]:
    return [name for name in public_names() if f"heading: {name}\n" not in page and f"`{name}`" not in page]


def options() -> list[tuple[str, str]]:
    group = typer.main.get_command(build_app())
    commands = {"": group, **group.commands}
    return [
        (name, option)
        for name, command in commands.items()
        for parameter in command.params
        for option in (
            [*parameter.opts, *parameter.secondary_opts]
            if parameter.param_type_name == "option"
            else [parameter.metavar or parameter.name]
        )
    ]


def missing_options(page: str) -> list[tuple[str, str]]:
    missing = []
    for command, option in options():
        _, heading, rest = page.partition(f"## `{' '.join(['wordsight', command]).strip()}`")
        section = rest.partition("\n## ")[0]
        if not heading or not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", section):
            missing.append((command, option))
    return missing


def keys_below(struct: type, path: str = "") -> Iterator[str]:
    """Every dotted key of a struct, found by msgspec's own inspection."""
    yield from _keys(msgspec.inspect.type_info(struct), path)


def _keys(info: msgspec.inspect.Type, path: str) -> Iterator[str]:
    if isinstance(info, msgspec.inspect.StructType):
        for field in info.fields:
            key = f"{path}.{field.encode_name}".lstrip(".")
            yield key
            yield from _keys(field.type, key)
    elif isinstance(info, msgspec.inspect.UnionType):
        for member in info.types:
            yield from _keys(member, path)
    elif isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
        yield from _keys(info.item_type, f"{path}[]")


def missing_keys(struct: type, page: str) -> list[str]:
    return [key for key in dict.fromkeys(keys_below(struct)) if f"| `{key}` |" not in page]


def test_every_public_name_is_in_the_reference() -> None:
    assert missing_names(rendered("api.md")) == []


def test_every_command_and_option_is_in_the_reference() -> None:
    assert missing_options(rendered("commands.md")) == []


def test_every_command_has_an_example_in_the_reference() -> None:
    sections = rendered("commands.md").split("\n## ")[2:]
    assert len(sections) == len(typer.main.get_command(build_app()).commands)
    for section in sections:
        name = section.split("`")[1]
        assert f"```console\n{name}" in section


@pytest.mark.parametrize(
    ("struct", "page"), [(Recipe, "recipes.md"), (Card, "cards.md"), (PublishedCard, "published-cards.md")]
)
def test_every_key_is_in_the_reference(struct: type, page: str) -> None:
    keys = list(keys_below(struct))
    assert len(keys) > 20
    assert missing_keys(struct, rendered(page)) == []


@pytest.mark.parametrize("struct", [Recipe, Card, PublishedCard])
def test_every_key_has_a_description(struct: type) -> None:
    undescribed = [
        key.name
        for path, part in reference.structs_in(struct).items()
        for key in reference.keys_of(part, path)
        if not key.description
    ]
    assert undescribed == []


def test_a_name_option_or_key_removed_from_the_reference_is_noticed() -> None:
    """The negative control of the tests above."""
    assert missing_names(rendered("api.md").replace("wordsight.load", "")) == ["wordsight.load"]
    assert missing_options(rendered("commands.md").replace("--top", "")) == [("classify", "--top"), ("find", "--top")]
    page = rendered("recipes.md").replace("| `schedule.steps` |", "")
    assert missing_keys(Recipe, page) == ["schedule.steps"]


def test_an_unknown_mark_is_an_error() -> None:
    with pytest.raises(KeyError, match="no-such-section"):
        reference.on_page_markdown("<!-- generated: no-such-section -->")


def test_the_generator_needs_no_mkdocs() -> None:
    source = (DOCS / "reference.py").read_text("utf-8")
    assert not re.search(r"^\s*(?:import|from) mkdocs", source, re.MULTILINE)


def test_every_exit_code_is_documented() -> None:
    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    for code in EXIT_CODES:
        assert f"| {code} |" in page


def variables_in(source: str) -> set[str]:
    """Names that look like environment variables, in a file that uses the environment."""
    return set(VARIABLE.findall(source)) if "environ" in source or "getenv" in source else set()


def test_every_environment_variable_is_documented() -> None:
    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    used = {name for path in (ROOT / "src").rglob("*.py") for name in variables_in(path.read_text("utf-8"))}
    assert used >= {"WORDSIGHT_CACHE", "WORDSIGHT_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "XDG_CACHE_HOME"}
    assert used >= {"OMP_WAIT_POLICY"}
    assert sorted(name for name in used if f"`{name}`" not in page) == []
    assert variables_in("os.environ['WORDSIGHT_NEW']") == {"WORDSIGHT_NEW"}


def test_every_cache_directory_is_documented() -> None:
    from wordsight.cache import CACHE_KINDS

    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    assert [kind for kind in CACHE_KINDS if f"`{kind}/`" not in page] == []


# --- pages ---


def test_every_page_is_in_the_navigation_and_the_other_way_round() -> None:
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_the_home_page_and_the_readme_make_the_same_comparison() -> None:
    tables = [
        re.findall(r"^\| .*$", path.read_text("utf-8"), re.MULTILINE)[:13]
        for path in (ROOT / "README.md", DOCS / "index.md")
    ]
    assert "openai/CLIP" in tables[0][0]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_links_of_a_page_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_a_page_loads_nothing_from_other_servers(page: Path) -> None:
    assert not re.search(r"!\[[^\]]*\]\(https?:|<(?:script|img|link)\b", page.read_text("utf-8"))


def test_paths_in_the_source_name_existing_pages() -> None:
    for root in ("src", "tests", "benchmarks"):
        for path in (ROOT / root).rglob("*"):
            if path.suffix in (".py", ".toml") and path != Path(__file__):
                for name in re.findall(r"(?<![\w/ ])docs/[\w/-]+\.(?:md|png)", path.read_text("utf-8")):
                    assert (ROOT / name).exists(), f"{path}: {name}"


@pytest.fixture(scope="session")
def example_files(demo_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: `demo/`, `photos/` with captions, `labelled/` by class, `film.mp4`."""
    directory = tmp_path_factory.mktemp("examples")
    (directory / "demo").symlink_to(demo_directory / "demo", target_is_directory=True)
    images = sorted((demo_directory / "demo" / "images").glob("*.png"))
    write_photos(images[:40], directory / "photos")
    for number, label in enumerate(("animal", "clock", "flag", "food")):
        (directory / "labelled" / label).mkdir(parents=True)
        for image in images[40 + 8 * number : 48 + 8 * number]:
            (directory / "labelled" / label / image.name).write_bytes(image.read_bytes())
    if importlib.util.find_spec("av"):
        write_film(directory / "film.mp4")
    return directory


def write_photos(images: list[Path], directory: Path) -> None:
    """Images, each with a caption in a text file beside it."""
    directory.mkdir()
    for image in images:
        (directory / image.name).write_bytes(image.read_bytes())
        caption = image.stem.rpartition("_")[0].replace("-", " ")
        (directory / image.name).with_suffix(".txt").write_text(f"a drawing of a {caption}", "utf-8")


def write_film(path: Path) -> None:
    """Two seconds of video."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(20):
            pixels = np.full((64, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_code_blocks_of_a_page_run(
    page: Path, example_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in NEEDED_PACKAGES.get(page.stem, ()):
        pytest.importorskip(package, reason=f"needs {package}, extra dev or video")
    for path in example_files.iterdir():
        (tmp_path / path.name).symlink_to(path, target_is_directory=path.is_dir())
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


def test_most_guides_have_blocks_that_run() -> None:
    guides = [
        page for page in PAGES if page.parent.name in ("how-to", "tutorial") and page != DOCS / "how-to" / "index.md"
    ]
    assert {page.name for page in guides} - {page.name for page in RUNNABLE} == {"ray.md"}
