"""Check that a release may be published: its tag is the version's, and the changelog says when.

Usage: python scripts/check_release.py v1.2.3
"""

import re
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def problem(tag: str) -> str | None:
    """Return what is wrong with a release.

    :param tag: the tag of the commit, such as ``v1.2.3``.
    :returns: one sentence, or None if all is well.
    """
    source = (REPO / "milvus_rerank" / "__init__.py").read_text("utf-8")
    version = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)[0]
    if tag != f"v{version}":
        return f"the tag is {tag!r}; milvus_rerank/__init__.py says {version}: expected 'v{version}'"
    newest = re.findall(r"^## (.+)$", (REPO / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    if not re.fullmatch(re.escape(version) + r" \(\d{4}-\d\d-\d\d\)", newest):
        return f"CHANGELOG.md begins with '## {newest}'; expected '## {version} (YEAR-MONTH-DAY)'"
    return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(problem(sys.argv[1]))
