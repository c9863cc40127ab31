"""What a package index gets: one version, links that work there, and archives that hold what they should."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import milvus_rerank

REPO = Path(__file__).resolve().parent.parent
ADDRESS = "https://github.com/milvus-rerank/milvus-rerank"
PAGES = f"{ADDRESS}/blob/v{milvus_rerank.__version__}/"
PICTURES = f"https://raw.githubusercontent.com/milvus-rerank/milvus-rerank/v{milvus_rerank.__version__}/"
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)

METADATA = """
import pathlib, sys
from hatchling.build import prepare_metadata_for_build_wheel
folder = pathlib.Path(sys.argv[1])
print((folder / prepare_metadata_for_build_wheel(sys.argv[1]) / "METADATA").read_text("utf-8"))
"""
FILES = """
import json
from hatchling.builders.{kind} import {kind_class} as Builder
print(json.dumps([file.distribution_path for file in Builder(".").recurse_included_files()]))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, encoding="utf-8", check=False)


def printed(*command: str) -> str:
    ran = run(*command)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Message:
    """The metadata as the build makes it."""
    pytest.importorskip("hatchling", reason="needs the build backend, hatchling")
    pytest.importorskip("hatch_fancy_pypi_readme", reason="needs the build's hook, hatch-fancy-pypi-readme")
    return message_from_string(printed(sys.executable, "-c", METADATA, str(tmp_path_factory.mktemp("metadata"))))


@pytest.fixture(scope="module")
def description(metadata: Message) -> str:
    """The page of a package index, without its code."""
    return FENCED.sub("", str(metadata.get_payload()))


@pytest.fixture
def packed() -> Callable[[str], set[str]]:
    """The files that an archive of a kind would hold."""
    pytest.importorskip("hatchling", reason="needs the build backend, hatchling")

    def names(kind: str) -> set[str]:
        code = FILES.format(kind=kind, kind_class=f"{kind.title()}Builder")
        return set(json.loads(printed(sys.executable, "-c", code)))

    return names


def tracked(*options: str) -> set[str]:
    if not (REPO / ".git").exists():
        pytest.skip("needs the git repository")
    return set(printed("git", "ls-files", "-z", *options).split("\0")) - {""}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)


# the version


def test_the_newest_heading_of_the_changelog_is_the_version() -> None:
    newest = re.findall(r"^## (.*)$", (REPO / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    heading = re.fullmatch(r"(\d+\.\d+\.\d+\S*) \((?:unreleased|\d{4}-\d\d-\d\d)\)", newest)
    assert heading, newest
    assert heading[1] == milvus_rerank.__version__


def test_the_metadata_takes_the_version_from_the_source(metadata: Message) -> None:
    assert metadata["Version"] == milvus_rerank.__version__


def test_the_installed_version_is_that_of_the_source() -> None:
    assert importlib.metadata.version("milvus-rerank") == milvus_rerank.__version__


@pytest.mark.parametrize(
    ("tag", "heading", "said"),
    [
        ("v{version}", "{version} (2026-01-31)", ""),
        ("v9.9.9", "{version} (2026-01-31)", "the tag is 'v9.9.9'; milvus_rerank/__init__.py says {version}"),
        ("{version}", "{version} (2026-01-31)", "expected 'v{version}'"),
        ("v{version}", "{version} (unreleased)", "CHANGELOG.md begins with '## {version} (unreleased)'"),
        ("v{version}", "9.9.9 (2026-01-31)", "expected '## {version} (YEAR-MONTH-DAY)'"),
    ],
)
def test_a_release_is_refused_unless_tag_version_and_changelog_agree(
    tag: str, heading: str, said: str, tmp_path: Path
) -> None:
    version = milvus_rerank.__version__
    for name in ("scripts/check_release.py", "milvus_rerank/__init__.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(REPO / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading.format(version=version)}\n", "utf-8")
    ran = run(sys.executable, str(tmp_path / "scripts" / "check_release.py"), tag.format(version=version))
    assert ran.returncode == (1 if said else 0)
    assert said.format(version=version) in ran.stderr


# the page of a package index


def test_every_address_of_the_project_is_of_one_repository(metadata: Message) -> None:
    addresses = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    assert set(addresses) == {"Changelog", "Documentation", "Homepage", "Issues", "Source"}
    assert all(address.startswith(ADDRESS) for address in addresses.values())
    for address in addresses.values():
        path = re.sub(r"^/(?:blob|tree)/main/", "", address.removeprefix(ADDRESS))
        assert path in ("", "/issues") or (REPO / path).exists()


def test_no_link_or_picture_of_the_description_is_relative(description: str) -> None:
    relative = [link for link in links(description) if not re.match(r"https?://|#", link)]
    assert relative == []


def test_every_rewritten_link_and_picture_is_a_file_of_the_repository(description: str) -> None:
    readme = FENCED.sub("", (REPO / "README.md").read_text("utf-8"))
    relative = [link for link in links(readme) if not re.match(r"https?://|#", link)]
    assert relative
    rewritten = [link for link in links(description) if link.startswith((PAGES, PICTURES))]
    assert [link.removeprefix(PAGES).removeprefix(PICTURES) for link in rewritten] == relative
    assert [link for link in relative if not (REPO / link.partition("#")[0]).exists()] == []


def test_pictures_are_files_and_links_are_pages(description: str) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", description)
    assert pictures
    assert all(picture.startswith(PICTURES) for picture in pictures)
    assert PICTURES not in re.sub(r"!\[[^\]]*\]\([^)]+\)", "", description)


def test_the_code_of_the_description_is_that_of_the_readme(metadata: Message) -> None:
    readme = (REPO / "README.md").read_text("utf-8")
    assert FENCED.findall(str(metadata.get_payload())) == FENCED.findall(readme) != []


# the archives


def test_the_source_archive_holds_what_the_repository_does(packed: Callable[[str], set[str]]) -> None:
    files = packed("sdist")
    assert {name for name in tracked() - files if (REPO / name).exists()} <= {".ci/run"}
    assert files <= tracked("--cached", "--others", "--exclude-standard")


def test_the_wheel_holds_the_package_alone(packed: Callable[[str], set[str]]) -> None:
    files = packed("wheel")
    assert {name.partition("/")[0] for name in files} == {"milvus_rerank"}
    assert files <= packed("sdist")
    assert "milvus_rerank/py.typed" in files
    assert any(name.endswith(".safetensors") for name in files)
