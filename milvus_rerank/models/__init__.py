"""Model names: the built-in models' folders, local folders, and names on the model hub."""

from milvus_rerank.models.source import BUILTIN, ModelSource, builtin_names, model_folder

__all__ = ["BUILTIN", "ModelSource", "builtin_names", "model_folder"]
