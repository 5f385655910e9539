"""From the name of a checkpoint to its folder on this machine: a local folder, a snapshot in the cache, or fetched from a hub.

All that is loaded goes through :func:`fetch`, and is then read from a folder. So a hub is asked once per checkpoint, with a
deadline, and a local folder, a cached snapshot and a hub id give the same model.
"""

import errno
import glob
import multiprocessing
import os
import re
import sys
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from mmprofile.errors import UserError
from mmprofile.model.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    MODEL_WEIGHTS,
    Checkpoint,
    local_name,
    missing_weights,
    weight_files,
)

DEADLINE = 2.5
"""Seconds in which a hub must answer the first question; the environment variable HF_HUB_ETAG_TIMEOUT changes it."""
COMMIT = re.compile(r"[0-9a-f]{40}")
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
TEMPLATES = "additional_chat_templates/"
EXPORT = ("config.json", "model.safetensors", "text/config.json")
"""What every exported model has, see :meth:`mmprofile.model.model.ProfileModel.save_pretrained`."""
EXPORTED = [*(f"*{ending}" for ending in SMALL), "*.safetensors", "README.md"]
TRANSPORT: tuple[type[BaseException], ...] = (
    HfHubHTTPError.__bases__[0], OSError, RuntimeError, ValueError, KeyError, TypeError,
)  # fmt: skip
"""What a request raises that gets no answer, or one that no hub gives. The first is of the HTTP client, which the versions of
the hub's client do not share."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_silent: dict[str, str] = {}  # hubs that this process could not reach, with the reason


class HubError(Exception):
    """The hub cannot give a checkpoint.

    Attributes:
        reason: why, as a sentence.
        reached: whether the hub answered.
    """

    def __init__(self, reason: str, reached: bool) -> None:
        super().__init__(reason)
        self.reason, self.reached = reason, reached


def fetch(
    name: str,
    key: str,
    revision: str | None = None,
    *,
    config: str = CONFIG,
    weights: bool = True,
    scheme: str = "",
) -> Checkpoint:
    """Return a checkpoint on this machine; one of a hub is fetched into the cache first, unless it is there.

    The hub is asked whether a branch has moved, but never about a full commit hash that is in the cache. Where it cannot be
    reached, or HF_HUB_OFFLINE is set, the cached snapshot is taken. The variables of the hub's own client hold: HF_HOME,
    HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT.

    Args:
        name: hub id, local folder or ``mmprofile:...``.
        key: the setting that has the name, for error messages.
        revision: branch, tag or commit of the hub's repository; None: its main branch.
        config: the file that such a checkpoint must have.
        weights: False fetches all files but the weights.
        scheme: written in front of a local folder's path in that setting.

    Raises:
        UserError: there is no such checkpoint, the hub refuses it, or cannot be reached and the cache does not have it.
    """
    asked, name = name, local_name(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        commit = folder.name if folder.parent.name == "snapshots" else None
        if revision not in (None, commit):
            raise UserError(
                f"{key}={asked!r} is a folder, which has no revision {revision!r}; leave the revision out, or give a hub id"
            )
        checkpoint = Checkpoint(key, name, folder, commit)
    else:
        checkpoint = _from_hub(name, key, revision, config, weights, scheme)
    if not (checkpoint.folder / config).is_file():
        other = {CONFIG: ADAPTER_CONFIG, ADAPTER_CONFIG: CONFIG}[config]
        kind = "an adapter's; set model.text.adapter to it" if other == ADAPTER_CONFIG else "a whole model's"
        hint = f": the folder is {kind}" if (checkpoint.folder / other).is_file() else ""
        raise checkpoint.refuse(f"{checkpoint.folder} has no {config}{hint}")
    return checkpoint


def fetch_export(
    name: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return the folder of an exported model of a hub, fetched into the cache first; neither code nor pickles are fetched.

    Where the hub cannot be reached, the cached snapshot is taken.

    Args:
        name: hub id.
        revision, token, cache_dir, force_download, local_files_only: as for ``snapshot_download`` of the hub's client.

    Raises:
        UserError: it is no hub id, the hub refuses it or has another kind of model, or cannot be reached and the cache does
            not have it.
    """
    if not is_hub_id(name):
        raise UserError(f"{name}: there is no such folder, and it is no hub id (such as ann/shops)")
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "allow_patterns": EXPORTED}
    try:
        if local_files_only:
            raise HubError("local_files_only is set", reached=False)
        files = {file.rfilename for file in ask(name, revision, token).siblings or []}
        if absent := [file for file in EXPORT if file not in files]:
            raise HubError(f"this is no exported model of mmprofile (it has no {absent[0]})", reached=True)
        try:
            return Path(snapshot_download(name, token=token, force_download=force_download, **options))
        except TRANSPORT as error:
            raise _explain(error, name, revision) from error
    except HubError as error:
        if error.reached:
            raise UserError(f"{name} cannot be loaded: {error.reason}") from error
        try:
            return Path(snapshot_download(name, local_files_only=True, **options))
        except LocalEntryNotFoundError:
            raise UserError(
                f"{name} cannot be loaded: it is no folder here, {error.reason}, and the cache "
                f"{cache_dir or constants.HF_HUB_CACHE} does not have it"
            ) from error


def why_not_pushed(error: BaseException) -> str:
    """Return why a hub did not take a model."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return f"{constants.ENDPOINT} refuses it; log in (hf auth login) or give the token of an account that may write there"
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def cached(name: str, revision: str | None = None, config: str = CONFIG) -> Path | None:
    """Return the snapshot of a hub's checkpoint in the cache, which may be incomplete; None without its configuration.

    Args:
        name: hub id.
        revision: branch, tag or commit; None: the main branch as it was when the hub was last asked.
        config: its configuration's file.
    """
    path = try_to_load_from_cache(name, config, revision=revision)
    return Path(path).parent if isinstance(path, str) else None


def download_command(name: str, revision: str | None = None) -> str:
    """Return the command that fetches a checkpoint into the cache."""
    return f"hf download {name}" + (f" --revision {revision}" if revision else "")


def _from_hub(name: str, key: str, revision: str | None, config: str, weights: bool, scheme: str) -> Checkpoint:
    """Return the checkpoint of a hub id.

    Raises:
        UserError: see :func:`fetch`.
    """
    if not is_hub_id(name):
        raise UserError(
            f"{key}={name!r} cannot be loaded: there is no such folder, and it is no hub id (such as google/flan-t5-base)"
        )
    folder = cached(name, revision, config)
    lacking = _lacking(folder, config, weights)
    if revision and COMMIT.fullmatch(revision) and folder is not None and lacking is None:
        return Checkpoint(key, name, folder, folder.name)
    try:
        fetched = _download(name, revision, config, weights)
    except HubError as error:
        if folder is not None and lacking is None:
            if not constants.HF_HUB_OFFLINE:
                print(f"note: {key}={name!r} comes from the cache, since {error.reason}", file=sys.stderr)
            return Checkpoint(key, name, folder, folder.name)
        place = "" if error.reached else "it is no folder here, and "
        line = f"{key}={name!r} cannot be loaded: {place}{error.reason}"
        if not error.reached:
            part = "does not have it" if folder is None else f"has only a part of it (no {lacking})"
            line += (
                f"; the cache {constants.HF_HUB_CACHE} {part}. Fetch it on a machine with network "
                f"({download_command(name, revision)}), then copy that cache folder here, or the files into a folder of "
                f"yours and set {key}={scheme}/path/to/folder"
            )
        raise UserError(line) from error
    return Checkpoint(key, name, fetched, fetched.name)


def _lacking(folder: Path | None, config: str, weights: bool) -> str | None:
    """Return what a cached snapshot lacks; None if it has all that is needed."""
    if folder is None:
        return config
    return missing_weights(folder, ADAPTER_WEIGHTS if config == ADAPTER_CONFIG else MODEL_WEIGHTS) if weights else None


def _download(name: str, revision: str | None, config: str, weights: bool) -> Path:
    """Return the snapshot of a hub's checkpoint as it is there now, after fetching what the cache lacks.

    Raises:
        HubError: the hub cannot be reached or refuses it.
    """
    info = ask(name, revision)
    sizes: dict[str, int] = {file.rfilename: file.size or 0 for file in info.siblings or []}
    files = choose_files(sizes, weights)
    folder = cached(name, revision, config)
    if folder is not None and folder.name == info.sha and all((folder / file).is_file() for file in files):
        return folder
    size = sum(sizes[file] for file in files if folder is None or not (folder / file).is_file())
    if size >= 10**6:
        print(f"fetching {name} ({size / 1e6:,.0f} MB) into {constants.HF_HUB_CACHE}", file=sys.stderr, flush=True)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[glob.escape(file) for file in files]))
    except TRANSPORT as error:
        raise _explain(error, name, revision) from error


def choose_files(names: Iterable[str], weights: bool) -> list[str]:
    """Return which files of a repository are fetched: configuration, tokenizer, and its weights in one format.

    Args:
        names: of all its files. There may be the same weights for other libraries, and code, which is never fetched.
        weights: False leaves the weights out.
    """
    names = list(names)
    files = [name for name in names if "/" not in name.removeprefix(TEMPLATES) and name.endswith(SMALL)]
    files = [name for name in files if not name.endswith(".index.json")]
    if weights:
        files += [file for forms in (MODEL_WEIGHTS, ADAPTER_WEIGHTS) for file in weight_files(names, forms)]
    return sorted(files)


def ask(name: str, revision: str | None, token: str | bool | None = None) -> Any:
    """Return what the hub says of a repository: its commit and files.

    Raises:
        HubError: no answer within the deadline, or a refusal.
    """
    hub = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set", reached=False)
    if hub in _silent:
        raise HubError(_silent[hub], reached=False)
    wait = constants.HF_HUB_ETAG_TIMEOUT if os.environ.get("HF_HUB_ETAG_TIMEOUT") else DEADLINE
    options = {"revision": revision, "timeout": 2 * wait, "files_metadata": True}  # the deadline below comes first
    # A look-up of the hub's address cannot be interrupted: a daemon's does not delay the exit.
    pool = ThreadPool(1)
    answer = pool.apply_async(HfApi(token=token).model_info, (name,), options)
    pool.close()
    try:
        return answer.get(wait)
    except multiprocessing.TimeoutError:
        explained = HubError(f"{hub} did not answer in {wait:g} s (HF_HUB_ETAG_TIMEOUT=10 waits 10 s)", reached=False)
    except TRANSPORT as error:
        explained = _explain(error, name, revision)
    if not explained.reached:
        _silent[hub] = explained.reason
    raise explained


def _explain(error: BaseException, name: str, revision: str | None) -> HubError:
    """Return what a failed request means."""
    hub = constants.ENDPOINT
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    account = "log in (hf auth login), or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return HubError(f"it is gated; accept its licence on {hub}/{name}, and {account} of that account", reached=True)
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{hub} has it, but no revision {revision!r} of it; give a branch, tag or commit", reached=True)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return HubError(
            f"there is no such folder here, and {hub} has no such model, or only for those who may see it; check the name; "
            f"if it is private, {account}",
            reached=True,
        )
    if status == 403:
        return HubError(f"{hub} refuses access to it; {account}", reached=True)
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return HubError(f"the cache {constants.HF_HUB_CACHE} cannot be written ({error.strerror})", reached=True)
    reason = f"status {status}" if status else " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return HubError(f"{hub} cannot be reached ({reason})", reached=False)
