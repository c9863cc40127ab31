"""Pipeline: steps in their order, given as values or as the tables of a config file."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import date, timedelta
from difflib import get_close_matches
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import RerankResult
from milvus_rerank.steps.arrange import Diversify, GroupBy, LostInTheMiddle
from milvus_rerank.steps.factors import Boost, Decay, FieldBoost
from milvus_rerank.steps.rescale import Fuse, Normalize, Threshold
from milvus_rerank.steps.step import Step
from milvus_rerank.validation import check_list, check_top_k, describe

_CLASSES: tuple[type[Step], ...] = (
    Threshold,
    Normalize,
    Fuse,
    Decay,
    Boost,
    FieldBoost,
    GroupBy,
    Diversify,
    LostInTheMiddle,
)
STEPS: Mapping[str, type[Step]] = {step.name: step for step in _CLASSES}
"""The steps that a config file may name, by their names."""


@dataclass(frozen=True, slots=True, init=False)
class Pipeline:
    """Steps after the reranker, in their order. Threads may share a pipeline.

    :param steps: steps such as ``Normalize("sigmoid")``, or mappings such as ``{"type": "normalize", "method":
        "sigmoid"}``, as a config file has them.
    :raises InputError: for an unknown step, or an unknown, missing or invalid option; the message has the number of the
        step. Also for steps that contradict each other: one that sorts by score after ``diversify``, or any after
        ``lost_in_the_middle``.
    """

    steps: tuple[Step, ...]

    def __init__(self, steps: Sequence[Step | Mapping[str, Any]] = ()) -> None:
        items = check_list(steps, "steps", "steps")
        checked: list[Step] = []
        for number, item in enumerate(items, 1):
            try:
                checked.append(_read(item))
            except InputError as error:
                raise InputError(f"{_place(number, len(items), item)}: {error}") from error
        _check_order(checked)
        object.__setattr__(self, "steps", tuple(checked))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of hits that the steps read, to be requested from Milvus."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.fields))

    def __call__(self, results: Sequence[RerankResult[Any]], top_k: int | None = None) -> RerankResults[Any]:
        """Run the steps on the results of one query.

        :param results: the results, best first; they are not changed.
        :param top_k: the most results to return, cut before ``lost_in_the_middle``; 0 or None for all.
        :returns: new results.
        :raises InputError: for a result that a step cannot handle; the message has the number of the step.
        """
        keep = check_top_k(top_k)
        ranked = RerankResults(results)
        for number, step in enumerate(self.steps, 1):
            if step.order == "from both ends":
                ranked = ranked[:keep]
            try:
                ranked = step(ranked)
            except InputError as error:
                raise InputError(f"{_place(number, len(self.steps), step)}: {error}") from error
        return ranked[:keep]

    def to_list(self) -> list[dict[str, Any]]:
        """Return the steps as the tables of a config file, of JSON's types; ``Pipeline`` reads them back."""
        return [_table(step) for step in self.steps]


def _place(number: int, count: int, item: object) -> str:
    name = item.name if isinstance(item, Step) else item.get("type") if isinstance(item, Mapping) else None
    return f"step {number} of {count}" + (f" ({name})" if isinstance(name, str) else "")


def _read(item: object) -> Step:
    """Return a step that was given as a value or as a mapping."""
    if isinstance(item, Step):
        return item
    if not isinstance(item, Mapping):
        example = '{"type": "normalize", "method": "sigmoid"}'
        raise InputError(f"expected a step such as Normalize('sigmoid'), or a table such as {example}, got {item!r}")
    options = {str(key): value for key, value in item.items()}
    name = options.pop("type", None)
    if name is None:
        raise InputError(f"the key 'type' is missing; it is one of {', '.join(STEPS)}")
    if not isinstance(name, str) or name not in STEPS:
        near = get_close_matches(name, STEPS, 1) if isinstance(name, str) else []
        hint = f"did you mean {near[0]!r}?" if near else f"the steps are {', '.join(STEPS)}"
        raise InputError(f"there is no step {name!r}; {hint}")
    step = STEPS[name]
    known = {option.name: option for option in fields(step) if option.init}
    for key in options:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(known) or 'none'}"
            raise InputError(f"there is no key {key!r}; {hint}")
    absent = [key for key, option in known.items() if option.default is MISSING and key not in options]
    if absent:
        raise InputError(f"the key {absent[0]!r} is missing, got {describe(options)}")
    return step(**options)


def _check_order(steps: Sequence[Step]) -> None:
    """Raise if a step would undo the order of one before it."""
    for number, step in enumerate(steps, 1):
        for earlier in steps[: number - 1]:
            if earlier.order == "from both ends":
                raise InputError(f"{_place(number, len(steps), step)}: {earlier.name} must be the last step")
            if earlier.order == "varied" and step.order == "by score":
                raise InputError(
                    f"{_place(number, len(steps), step)} sorts by score, which undoes {earlier.name}; put it before"
                )


def _table(step: Step) -> dict[str, Any]:
    table: dict[str, Any] = {"type": step.name}
    for option in fields(step):
        value = getattr(step, option.name)
        if option.init and (option.default is MISSING or value != option.default):
            table[option.name] = _plain(value)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.6f}s"
    return list(value) if isinstance(value, tuple) else value
