"""Instructions of this machine's CPU."""

from pathlib import Path

import pytest

from milvus_rerank.engines.cpu import multiplies_bytes

AVX2 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu avx2\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AVX2, False),
        (AVX2.replace("avx2 fma", "avx2 fma avx512f avx512_vnni"), True),
        (AVX2.replace("avx2 fma", "avx2 avx_vnni"), True),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimddp\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\n", None),
    ],
)
def test_cpus_that_multiply_bytes_are_known_by_their_flags(text: str, expected: bool | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert multiplies_bytes(tmp_path / "cpuinfo") is expected


def test_a_system_without_the_list_is_unknown(tmp_path: Path) -> None:
    assert multiplies_bytes(tmp_path / "cpuinfo") is None
