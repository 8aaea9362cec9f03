"""What of a run's options may be written down and shown: what is known to be harmless by its name.

Everything else in the places where people put credentials (storage options, headers, queries, user info of URLs,
extras of requests) is left out or becomes HIDDEN, and is masked in this process from then on. A value `env:NAME` is a
reference to an environment variable. It is written down as it is, and looked up when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from domyn_swarm.masking import MASK, hide_value
from domyn_swarm.references import IN_HEADER, is_reference, leaves

HIDDEN = MASK


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_URL = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://(?:(?P<user>[^/?#@]*)@)?(?P<rest>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<end>.*))?"
)
_WEB = ("http", "https", "ftp", "ftps", "webdav", "dav", "davs", "webhdfs")
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs", "adl", "az", "azure")
"""Schemes whose `name@` is that of a container."""

STORAGE = _names("""
    account_name addressing_style allow_redirects anon api_version asynchronous auto_mkdir block_size blocksize
    bucket ca_bundle cache_regions cache_type check_connection client_kwargs config_kwargs connect_timeout
    consistency default_block_size default_cache_type default_fill_cache default_location endpoint_override
    endpoint_url expand fill_cache fixed_upload_size host listings_expiry_time location location_mode
    max_attempts max_block_size max_concurrency max_paths max_pool_connections mode overwrite
    parameter_validation payload_signing_enabled port profile project protocol read_only read_timeout region
    region_name request_timeout requester_pays requests_timeout retries retry_mode s3 s3_additional_kwargs
    scheme secure_serialize serversideencryption session_kwargs signature_version ssl storageclass tcp_keepalive
    timeout total_max_attempts use_accelerate_endpoint use_dualstack_endpoint use_https use_listings_cache
    use_ssl verify version version_aware
""")
"""Names of storage options, at any depth, that hold no credentials."""
REQUEST = _names("""
    add_generation_prompt add_special_tokens allowed_token_ids audio bad_words best_of bos_token_id
    chat_template chat_template_kwargs content continue_final_message data_parallel_rank description detail
    dimensions do_sample documents early_stopping ebnf echo effort enable_thinking encoding_format enum
    eos_token_id epsilon_cutoff extra_body frequency_penalty function function_call functions grammar
    guided_choice guided_decoding_backend guided_grammar guided_json guided_regex guided_whitespace_pattern
    ignore_eos include_stop_str_in_output include_usage input_type json_object json_schema lang language
    length_penalty logit_bias logits_processors logprobs max_completion_tokens max_new_tokens max_prompt_tokens
    max_tokens metadata min_p min_tokens mirostat mirostat_eta mirostat_tau mm_processor_kwargs modalities model
    n name no_repeat_ngram_size num_beams num_ctx num_predict options parallel_tool_calls parameters
    penalty_alpha prediction presence_penalty priority prompt prompt_cache_key prompt_logprobs properties
    reasoning reasoning_effort regex repeat_last_n repeat_penalty repetition_penalty required response_format
    return_tokens_as_token_ids role safe_prompt safety_identifier schema seed separate_reasoning service_tier
    skip_special_tokens spaces_between_special_tokens stop stop_sequences stop_token_ids store stream
    stream_options strict structural_tag structured_outputs suffix system task task_type temperature text tfs_z
    thinking thinking_budget tool_choice tools top_a top_k top_logprobs top_n_tokens top_p truncate
    truncate_prompt_tokens type typical_p use_beam_search user user_id verbosity voice watermark
    web_search_options
""")
"""Names of a request's parameters that hold no credentials."""
_WHOLE = _names("""
    chat_template chat_template_kwargs documents function functions guided_json json_schema messages parameters
    prediction properties response_format schema structural_tag structured_outputs tools
""")
"""Of these, the ones whose content is a user's own, names included."""
HEADERS = _names("""
    accept accept_encoding accept_language anthropic_version content_type openai_beta user_agent
""")
QUERY = _names("""
    api_version format limit list_type page region version
""")
_BAGS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("request", "extra_body", "body", "default_body"), REQUEST),
    **dict.fromkeys(("headers", "header", "extra_headers", "default_headers", "http_headers", "cookies"), HEADERS),
    **dict.fromkeys(("extra_query", "query", "params", "default_query", "query_params"), QUERY),
    **dict.fromkeys(("storage_options", "client_kwargs", "config_kwargs", "proxies", "proxy", "auth"), STORAGE),
}
"""What hides behind a job's own field of that name, and what of it is harmless."""
_SECRET_WORDS = _names("""
    apikey authorization bearer cookie credential credentials dsn jwt passphrase passwd password pat pwd sas
    secret secrets sig signature userinfo
""")
_KEYS = _names("""
    access account api auth encryption license private secret service shared signing ssh subscription
""")
_OF_TEXT = _names("""
    bos cls end eos image mask pad sep special start stop unk
""")
"""Kinds of tokens that are no credentials."""
_LOOKS_SECRET = re.compile(
    r"(sk|pk|rk|hf|ghp|gho|ghs|github_pat|glpat|xox[abprs]|nvapi|gsk|AKIA|ASIA|AIza|ya29)[-_.A-Za-z0-9/+=]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(Bearer|Basic)\s+\S{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
_SETTING = re.compile(
    r"""(?<!\S)(?P<name>--?[\w.-]+|[A-Za-z_]\w*(?==))(?P<by>=|\s+)(?P<value>'[^']*'|"[^"]*"|[^\s'"-][^\s'"]*)"""
)
_WORD = re.compile(r"""'[^']*'|"[^"]*"|[^\s'"=]+""")
_URLS = ("input", "output", "checkpoint_dir", "ray_address", "api_key_file", "model")


def public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a job by name, as anybody may read them; what was hidden is masked from now on."""
    return {name: _public_option(name, value) for name, value in options.items()}


def _public_option(name: str, value: Any) -> Any:
    if name in _URLS:
        return public_text(value)
    if name in ("endpoints", "models", "api_key_files", "headers"):
        public = _public_header if name == "headers" else public_text
        return [public(one) for one in value] if isinstance(value, list) else value
    if name == "job_kwargs":
        return public_fields(value)
    if name == "serve":
        return public_command(value)
    if name in ("backend_read_kwargs", "backend_write_kwargs") and isinstance(value, Mapping):
        storage = value.get("storage_options")
        return {**value, **({"storage_options": public_storage(storage)} if storage else {})}
    return value


def public_command(command: Any) -> Any:
    """A command line without the values of options and variables that are named like credentials, or look like them."""
    if not isinstance(command, str):
        return command
    return _WORD.sub(_public_word, _SETTING.sub(_public_setting, command))


def _public_setting(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"].strip("'\"")
    if is_reference(value) or not names_secret(name):
        return found[0]
    return f"{name}{found['by']}{_hidden(value)}"


def _public_word(found: re.Match[str]) -> str:
    word = found[0].strip("'\"")
    return str(_hidden(word)) if _LOOKS_SECRET.fullmatch(word) else found[0]


def names_secret(name: str) -> bool:
    """Whether a variable or an option of that name holds a credential."""
    return _is_secret(_plain(name))


def public_storage(options: Any) -> Any:
    """Storage options without those whose names are not known to be harmless, at any depth."""
    if not isinstance(options, Mapping):
        _hide_all(options)
        return {}
    kept = {}
    for name, value in options.items():
        if is_reference(value):
            kept[name] = value
        elif _plain(name) not in STORAGE:
            _hide_all(value)
        elif isinstance(value, Mapping):
            kept[name] = public_storage(value)
        else:
            kept[name] = public_text(value)
    return kept


def public_fields(fields: Any) -> Any:
    """A job's fields: those are hidden that are named like credentials, look like them, or stand in a bag of others."""
    if not isinstance(fields, Mapping):
        return fields
    return {name: _public_field(str(name), value) for name, value in fields.items()}


def _public_field(name: str, value: Any) -> Any:
    if is_reference(value) or value is None or isinstance(value, bool):
        return value
    plain = _plain(name)
    if _is_secret(plain):
        return _hidden(value)
    if plain in _BAGS:
        return _allowed(value, _BAGS[plain])
    if isinstance(value, Mapping):
        return public_fields(value)
    if isinstance(value, list):
        return [_public_field("", one) for one in value]
    return public_text(value)


def _allowed(value: Any, names: frozenset[str]) -> Any:
    """A bag of parameters, where only what is named in `names` is kept."""
    if is_reference(value) or value is None or isinstance(value, (bool, float)) or value in ("", [], {}):
        return value
    if isinstance(value, Mapping):
        return {name: _allowed_entry(_plain(str(name)), one, names) for name, one in value.items()}
    if isinstance(value, list):
        return [_allowed(one, names) for one in value]
    return value if isinstance(value, int) and abs(value) < 10**6 else _hidden(value)


def _allowed_entry(name: str, value: Any, names: frozenset[str]) -> Any:
    if name in _BAGS:
        return _allowed(value, _BAGS[name])
    if name not in names or (name not in _WHOLE and isinstance(value, Mapping)):
        return _allowed(value, names)
    return value if name in _WHOLE else _texts(value)


def _texts(value: Any) -> Any:
    return [_texts(one) for one in value] if isinstance(value, list) else public_text(value)


def public_text(value: Any) -> Any:
    """A URL without user info and the values of its query; any other text, unless it looks like a credential."""
    if not isinstance(value, str) or is_reference(value):
        return value
    if _LOOKS_SECRET.fullmatch(value):
        return _hidden(value)
    chain, separator, url = value.rpartition("::")
    found = None if any(char.isspace() for char in value) else _URL.fullmatch(url)
    return value if found is None else f"{public_text(chain)}{separator}{_public_url(found)}"


def _public_url(found: re.Match[str]) -> str:
    scheme, user, rest, query, end = (found[name] for name in ("scheme", "user", "rest", "query", "end"))
    web = scheme.lower() in _WEB
    if user and (web or ":" in user) and scheme.lower() not in _CONTAINERS:
        for piece in {user, *user.split(":", 1)} - {HIDDEN}:
            hide_value(piece)
        user = HIDDEN
    if query is not None and web:
        query = "&".join(_public_parameter(*pair.partition("=")) for pair in query.split("&"))
    if end and web:
        hide_value(end)
        end = HIDDEN
    at, question, hash_ = ("" if part is None else sign for part, sign in ((user, "@"), (query, "?"), (end, "#")))
    return f"{scheme}://{user or ''}{at}{rest}{question}{query or ''}{hash_}{end or ''}"


def _public_parameter(name: str, equals: str, value: str) -> str:
    if not value and not equals:
        hide_value(name)
        return HIDDEN if name else name
    if _plain(name) in QUERY or not value or is_reference(value):
        return f"{name}{equals}{value}"
    hide_value(value)
    return f"{name}{equals}{HIDDEN}"


def _public_header(header: Any) -> Any:
    """`Name: value` with the value hidden, unless it is a reference or its name is known to be harmless."""
    if not isinstance(header, str) or IN_HEADER.search(header):
        return header
    name, colon, value = header.partition(":")
    if colon and _plain(name) in HEADERS:
        return header
    hide_value((value if colon else name).strip())
    return f"{name}: {HIDDEN}" if colon else HIDDEN


def public_words(words: str) -> str:
    """Arguments of a command as one text, without the values that they export."""

    def without(found: re.Match[str]) -> str:
        hide_value(found[2].strip("'\""))
        return f"{found[1]}={HIDDEN}"

    if "--export" not in words:
        return words
    return re.sub(r"(?<![\w-])([A-Za-z_]\w*)=((?:'[^']*'|\"[^\"]*\"|[^\s,'\"])+)", without, words)


def missing(options: Mapping[str, Any]) -> list[str]:
    """Names of the options that hold something which was hidden when they were written down."""
    hidden = [name for name, value in options.items() if any(map(_was_hidden, leaves(value)))]
    return [*hidden, "serve"] if HIDDEN in (options.get("serve") or "") and "serve" not in hidden else hidden


def _was_hidden(value: Any) -> bool:
    if not isinstance(value, str) or HIDDEN not in value:
        return False
    return (
        value == HIDDEN
        or value.endswith(f": {HIDDEN}")
        or f"://{HIDDEN}@" in value
        or ("://" in value and f"={HIDDEN}" in value)
    )


def _is_secret(name: str) -> bool:
    words = name.split("_")
    if _SECRET_WORDS & set(words):
        return True
    before = words[-2] if len(words) > 1 else ""
    return (words[-1] == "key" and before in _KEYS) or (words[-1] == "token" and before not in _OF_TEXT)


def _plain(name: str) -> str:
    """`X-Api-Key`, `xApiKey` and `x_api_key` alike."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def _hidden(value: Any) -> Any:
    _hide_all(value)
    return HIDDEN


def _hide_all(value: Any) -> None:
    for leaf in leaves(value):
        hide_value(str(leaf) if isinstance(leaf, (str, int)) and not isinstance(leaf, bool) else "")
