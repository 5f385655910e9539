"""Chats in the roles that a model's chat template knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

Chat = Sequence[Mapping[str, str]]
"""Messages with a ``role`` and a ``content``."""


def has_system_role(tokenizer: Any, template: Mapping[str, Any]) -> bool:
    """Return whether a chat template shows a system message. Gemma's refuses one, others leave it out.

    Args:
        tokenizer: whose template.
        template: what the template takes.
    """
    probe = [{"role": "system", "content": "mmprofile"}, {"role": "user", "content": "hello"}]
    try:
        return "mmprofile" in tokenizer.apply_chat_template(probe, tokenize=False, **template)
    except TemplateError:
        return False


def without_system(chat: Chat) -> list[dict[str, str]]:
    """Return a chat of a system's and a user's message as one message of the user's."""
    return [{"role": "user", "content": "\n\n".join(message["content"].strip() for message in chat).strip()}]
