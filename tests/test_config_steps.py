"""Steps in the config file: what is read, what is refused, and what is written."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank import Pipeline
from milvus_rerank.config import read_config
from milvus_rerank.errors import InputError
from milvus_rerank.steps import Decay, Normalize

TEXT = """\
[search]
top_k = 3

# newer is better
[[steps]]
type = "normalize"
method = "sigmoid"

[[steps]]
type = "decay"   # as in Milvus
field = "day"
function = "gauss"
origin = 2026-05-01
scale = "30d"
"""


def test_steps_are_read_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(TEXT)
    config = read_config(tmp_path / "c.toml")
    assert Pipeline(config.steps) == Pipeline([Normalize("sigmoid"), Decay("day", "gauss", date(2026, 5, 1), "30d")])
    assert read_config(config.to_dict()) == config
    assert config.steps[1]["origin"] == date(2026, 5, 1)
    assert read_config({"steps": [Normalize("rank")]}).steps == [{"type": "normalize", "method": "rank"}]
    assert read_config({}).steps == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps = 3", "[[steps]]: expected a list of tables, each with a type, got int: 3"),
        ("[steps]\ntype = 'normalize'", "[[steps]]: expected a list of tables, each with a type, got dict"),
        (
            "[[steps]]\nmethod = 'rank'",
            "[[steps]]: step 1 of 1: the key 'type' is missing; it is one of threshold, nor",
        ),
        (
            "[[steps]]\ntype = 'normalise'",
            "[[steps]]: step 1 of 1 (normalise): there is no step 'normalise'; did you me",
        ),
        (TEXT + "scal = 3", "[[steps]]: step 2 of 2 (decay): there is no key 'scal'; did you mean 'scale'?"),
        (
            TEXT.replace("field", "feild"),
            "[[steps]]: step 2 of 2 (decay): there is no key 'feild'; did you mean 'field'?",
        ),
        (TEXT.replace('field = "day"', ""), "[[steps]]: step 2 of 2 (decay): the key 'field' is missing"),
        (TEXT.replace('"30d"', "30"), "[[steps]]: step 2 of 2 (decay): scale must be a duration such as '30d'"),
        (
            "[[steps]]\ntype = 'group_by'\nfield = 3",
            "[[steps]]: step 1 of 1 (group_by): field must be the name of a field",
        ),
        ("[[step]]\ntype = 'normalize'", "there is no table [step]; did you mean [steps]?"),
    ],
)
def test_what_a_step_cannot_mean_names_the_file_and_its_number(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(InputError) as raised:
        read_config(file)
    assert str(raised.value).startswith(f"{file}: {problem}")


def test_writing_keeps_the_comments_of_steps_that_stay_and_replaces_those_that_change(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(TEXT)
    config = read_config(file)
    config.model_copy(update={"search": config.search.model_copy(update={"top_k": 5})}).write(file)
    assert file.read_text() == TEXT.replace("top_k = 3", "top_k = 5")
    steps: list[dict[str, Any]] = [{"type": "threshold", "least": 0.5}, *config.steps]
    changed = config.model_copy(update={"steps": steps})
    changed.write(file)
    assert read_config(file) == changed
    changed.write(tmp_path / "new.toml")
    assert read_config(tmp_path / "new.toml") == changed
    assert '[[steps]]\ntype = "threshold"' in (tmp_path / "new.toml").read_text()
    changed.model_copy(update={"steps": []}).write(file)
    assert read_config(file).steps == []
