"""Heads that are sentence-transformers' modules behind a transformer, as in the Ettin rerankers. Reads no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from milvus_rerank.models.files import read_config, read_json

_KINDS = ["Transformer", "Pooling", "Dense", "LayerNorm", "Dense"]
_LIBRARY = "sentence_transformers."
_TORCH = "torch.nn.modules."
_ACTIVATIONS = {
    f"{_TORCH}activation.GELU": "gelu",
    f"{_TORCH}activation.ReLU": "relu",
    f"{_TORCH}activation.Tanh": "tanh",
}
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_IGNORED = {"unpad_inputs"}  # speed only


@dataclass(frozen=True, slots=True)
class Head:
    """Head of modules: a row is made of the tokens', and goes through a dense layer, a norm and a dense layer.

    :param pooling: how the row is made: ``cls`` for the first token's, ``mean`` for the mean of all.
    :param activation: the activation after the first dense layer, such as ``gelu``.
    :param has_bias: whether the first dense layer has a bias; the other two modules have one.
    :param dense: the folder of the first dense layer.
    :param norm: the folder of the norm.
    :param score: the folder of the second dense layer, whose output is the logit.
    """

    pooling: Literal["cls", "mean"]
    activation: str
    has_bias: bool
    dense: str
    norm: str
    score: str

    @property
    def folders(self) -> tuple[str, str, str]:
        """The folders of its weights."""
        return self.dense, self.norm, self.score


def read_head(folder: Path) -> Head | None:
    """Return the head of a model of modules.

    :param folder: the folder with the model's small files.
    :returns: the head; None if the modules are others, or do something else with the tokens.
    :raises ModelError: if a file cannot be read.
    """
    if not (folder / "modules.json").is_file():
        return None
    modules = [dict(module) for module in read_json(folder / "modules.json")]
    names, paths = ([str(module.get(key)) for module in modules] for key in ("type", "path"))
    known = (
        [name.rpartition(".")[2] for name in names] == _KINDS
        and all(name.startswith(_LIBRARY) for name in names)
        and paths[0] == ""
        and all(Path(path).name == path for path in paths[1:])
    )
    if not known:
        return None
    configs = [read_config(folder, f"{path}/config.json") for path in paths[1:]]
    body = read_config(folder, "sentence_bert_config.json", optional=True)
    pooling, activation = _pooling(configs[0]), _ACTIVATIONS.get(str(configs[1].get("activation_function")))
    plain = (
        {key: value for key, value in body.items() if key not in _IGNORED and value is not None} == _TRANSFORMER
        and all(_is_plain(dense) for dense in (configs[1], configs[3]))
        and configs[1].get("module_output_name") in (None, "sentence_embedding")
        and configs[3].get("module_output_name") == "scores"
        and configs[3].get("activation_function") == f"{_TORCH}linear.Identity"
        and configs[3].get("out_features") == 1
        and configs[3].get("bias", True) is True
    )
    if not plain or pooling is None or activation is None:
        return None
    return Head(pooling, activation, configs[1].get("bias", True) is True, *paths[2:])


def _is_plain(dense: Mapping[str, Any]) -> bool:
    return dense.get("module_input_name", "sentence_embedding") == "sentence_embedding" and not dense.get(
        "use_residual"
    )


def _pooling(config: Mapping[str, Any]) -> Literal["cls", "mean"] | None:
    """Return how tokens are pooled, by the config of sentence-transformers 5 or by that of older versions."""
    mode = config.get("pooling_mode")
    if mode is None:
        active = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        mode = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}.get(",".join(active))
    if config.get("include_prompt", True) is not True:
        return None
    return "cls" if mode == "cls" else "mean" if mode == "mean" else None
