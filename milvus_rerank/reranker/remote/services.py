"""Rerank services by name: Cohere, Jina, Voyage, text-embeddings-inference, and any other with the same API."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from milvus_rerank.reranker.remote.api_formats import API_FORMATS, COHERE, JINA, TEI, VOYAGE
from milvus_rerank.reranker.remote.function import RemoteRerankFunction
from milvus_rerank.reranker.remote.options import ServiceKeywords, ServiceOptions
from milvus_rerank.validation import check_choice, check_count

if TYPE_CHECKING:
    from typing_extensions import Unpack

Init = TypeVar("Init", bound=Callable[..., None])


def _with_service_options(init: Init) -> Init:
    """Show each service option in a constructor's signature, which ``help`` and the registry read."""
    parameters = list(inspect.signature(init).parameters.values())[:-1]  # without **options
    options = inspect.signature(ServiceOptions).parameters.values()
    parameters += [option.replace(kind=option.KEYWORD_ONLY) for option in options]
    init.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return init


class CohereRerankFunction(RemoteRerankFunction):
    """Rerank with Cohere, or with a server that has the same API. The first three arguments are pymilvus.model's.

    Cohere's scores are from 0 to 1; the range of other servers may differ.

    :param model_name: the model's name at the service.
    :param api_key: the key; None reads ``CO_API_KEY`` or ``COHERE_API_KEY``, for Cohere's address only.
    :param return_documents: accepted for pymilvus.model, without effect: results always include their texts.
    :param base_url: the service's address; a missing ``/v2/rerank`` is added.
    :param max_tokens_per_doc: the most tokens of a document; None for the service's 4096.
    :param **options: the fields of :class:`~milvus_rerank.reranker.remote.options.ServiceOptions`.
    :raises InputError: for an invalid option or a missing key.
    """

    @_with_service_options
    def __init__(
        self,
        model_name: str = "rerank-english-v3.0",
        api_key: str | None = None,
        return_documents: bool = True,
        *,
        base_url: str = "https://api.cohere.com",
        max_tokens_per_doc: int | None = None,
        **options: "Unpack[ServiceKeywords]",
    ) -> None:
        parameters = {}
        if max_tokens_per_doc is not None:
            parameters["max_tokens_per_doc"] = check_count(max_tokens_per_doc, "max_tokens_per_doc")
        super().__init__(base_url, COHERE, api_key, "base_url", model_name=model_name, parameters=parameters, **options)


class JinaRerankFunction(RemoteRerankFunction):
    """Rerank with Jina, or with a server that has the same API. The first two arguments are pymilvus.model's.

    Jina's scores are from 0 to 1; the range of other servers may differ.

    :param model_name: the model's name at the service.
    :param api_key: the key; None reads ``JINA_API_KEY`` or ``JINAAI_API_KEY``, for Jina's address only.
    :param base_url: the service's address; a missing ``/v1/rerank`` is added.
    :param **options: the fields of :class:`~milvus_rerank.reranker.remote.options.ServiceOptions`.
    :raises InputError: for an invalid option or a missing key.
    """

    @_with_service_options
    def __init__(
        self,
        model_name: str = "jina-reranker-v2-base-multilingual",
        api_key: str | None = None,
        *,
        base_url: str = "https://api.jina.ai",
        **options: "Unpack[ServiceKeywords]",
    ) -> None:
        super().__init__(base_url, JINA, api_key, "base_url", model_name=model_name, **options)


class VoyageRerankFunction(RemoteRerankFunction):
    """Rerank with Voyage, or with a server that has the same API. The first two arguments are pymilvus.model's.

    Voyage's scores are from 0 to 1; the range of other servers may differ.

    :param model_name: the model's name at the service.
    :param api_key: the key; None reads ``VOYAGE_API_KEY``, for Voyage's address only.
    :param base_url: the service's address; a missing ``/v1/rerank`` is added. ``milvus-rerank serve`` has this
        API below ``/voyage``.
    :param truncation: truncate texts that are too long; False makes them an error.
    :param **options: the fields of :class:`~milvus_rerank.reranker.remote.options.ServiceOptions`.
    :raises InputError: for an invalid option or a missing key.
    """

    @_with_service_options
    def __init__(
        self,
        model_name: str = "rerank-2",
        api_key: str | None = None,
        *,
        base_url: str = "https://api.voyageai.com",
        truncation: bool = True,
        **options: "Unpack[ServiceKeywords]",
    ) -> None:
        parameters = {"truncation": bool(truncation)}
        super().__init__(base_url, VOYAGE, api_key, "base_url", model_name=model_name, parameters=parameters, **options)


class TEIRerankFunction(RemoteRerankFunction):
    """Rerank with a text-embeddings-inference server. The first argument is pymilvus.model's.

    Scores are sigmoids, from 0 to 1. With ``raw_scores`` they are logits, as those of
    :class:`~milvus_rerank.reranker.cross_encoder.CrossEncoderRerankFunction` with ``activation_fct="raw"``, and need
    another threshold.

    :param api_url: the server's address, such as ``http://localhost:8080``; a missing ``/rerank`` is added.
    :param api_key: the key, if the server requires a key.
    :param raw_scores: request logits instead of sigmoids.
    :param truncate: truncate texts that are too long, as other rerankers do; False makes them an error.
    :param truncation_direction: ``Right`` cuts the end of a text, ``Left`` its beginning.
    :param **options: the fields of :class:`~milvus_rerank.reranker.remote.options.ServiceOptions`.
    :raises InputError: for an invalid option.
    """

    @_with_service_options
    def __init__(
        self,
        api_url: str,
        *,
        api_key: str | None = None,
        raw_scores: bool = False,
        truncate: bool = True,
        truncation_direction: str = "Right",
        **options: "Unpack[ServiceKeywords]",
    ) -> None:
        parameters = {
            "raw_scores": bool(raw_scores),
            "truncate": bool(truncate),
            "truncation_direction": check_choice(truncation_direction, "truncation_direction", ("Left", "Right")),
        }
        super().__init__(api_url, TEI, api_key, "api_url", parameters=parameters, **options)


class HTTPRerankFunction(RemoteRerankFunction):
    """Rerank with any service that has a known API format. The service sets the range of the scores.

    :param url: the full address of the route. If it has no path, or only the beginning of a route such as ``/v1``, the
        route of the API format is added. No message shows the address's query string, but put no key into it.
    :param api_key: the key, if the service requires a key. For SiliconFlow, DashScope, Cohere, Jina and Voyage, None
        reads it from the environment, such as ``SILICONFLOW_API_KEY`` and ``DASHSCOPE_API_KEY``.
    :param model_name: the model's name at the service; None for the service's default.
    :param dialect: the API format: ``jina``, ``vllm``, ``infinity`` and ``siliconflow`` (all equal), ``cohere``,
        ``voyage``, ``tei`` or ``dashscope``; ``auto`` derives it from the address: a hosted service's format, Cohere's
        for ``/v2/rerank``, else ``jina``.
    :param parameters: further keys of a request's JSON, such as ``{"truncate_prompt_tokens": 512}`` for vLLM.
    :param **options: the fields of :class:`~milvus_rerank.reranker.remote.options.ServiceOptions`.
    :raises InputError: for an invalid option or a missing key.
    """

    @_with_service_options
    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model_name: str | None = None,
        dialect: str = "auto",
        parameters: Mapping[str, Any] | None = None,
        **options: "Unpack[ServiceKeywords]",
    ) -> None:
        api_format = API_FORMATS.get(check_choice(dialect, "dialect", ("auto", *API_FORMATS)))
        super().__init__(
            url, api_format, api_key, keep_path=True, model_name=model_name, parameters=parameters, **options
        )
