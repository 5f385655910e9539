"""What a shell completes ``mmprofile`` with: a script that holds all commands, keys and choices, so a tab starts no Python."""

from collections.abc import Mapping
from functools import cache

from mmprofile.config.options import Option, options

CONFIGS_OF = {"doctor": ["train"], "sweep": ["sweep", "train"]}
"""Commands that take the words of others."""

BASH = """\
# mmprofile COMMAND key=value: completion for bash and, with bashcompinit, zsh
_mmprofile() {{
    local line="${{COMP_LINE:0:$COMP_POINT}}" word rest command key value choices=""
    word="${{line##* }}" rest="${{line#* }}"
    command="${{rest%% *}}"
    COMPREPLY=()
    if [[ "$rest" != *" "* ]]; then
        COMPREPLY=( $(compgen -W "{commands}" -- "$word") )
    elif [[ "$word" != *=* ]]; then
        case "$command" in
{keys}
        esac
        COMPREPLY=( $(compgen -W "$choices" -- "$word") )
        if [[ "${{COMPREPLY[*]}}" == *= ]]; then compopt -o nospace 2>/dev/null; fi
    else
        key="${{word%%=*}}" value="${{word#*=}}"
        case "$command:$key" in
{choices}
        *:run) local IFS=$'\n'; COMPREPLY=( $(compgen -d -S / -- "$value") ); compopt -o nospace 2>/dev/null ;;
        *) local IFS=$'\n'; COMPREPLY=( $(compgen -f -- "$value") ); compopt -o filenames 2>/dev/null ;;
        esac
        if [[ -n "$choices" ]]; then COMPREPLY=( $(compgen -W "$choices" -- "$value") ); fi
        # bash replaces what stands behind the sign, unless the user has changed that
        if [[ "$COMP_WORDBREAKS" != *=* ]]; then COMPREPLY=( "${{COMPREPLY[@]/#/$key=}}" ); fi
    fi
}}
complete -F _mmprofile mmprofile
"""
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def completion_script(shell: str, commands: Mapping[str, str]) -> str:
    """Return the script for ``bash``, ``zsh`` or ``fish``.

    Args:
        shell: its name.
        commands: command -> what it is for.
    """
    if shell == "fish":
        return _fish(commands)
    keys, choices = [], []
    for name in commands:
        found = _options(name)
        keys.append(f'        {name}) choices="{" ".join(f"{option.key}=" for option in found)}" ;;')
        choices += [f'        {name}:{o.key}) choices="{" ".join(o.choices)}" ;;' for o in found if o.choices]
    script = BASH.format(commands=" ".join(commands), keys="\n".join(keys), choices="\n".join(choices))
    return ZSH + script if shell == "zsh" else script


def _fish(commands: Mapping[str, str]) -> str:
    lines = ["# mmprofile COMMAND key=value: completion for fish"]
    for name, purpose in commands.items():
        lines.append(f"complete -c mmprofile -n __fish_use_subcommand -f -a {name} -d {_quoted(purpose)}")
        for option in _options(name):
            words = " ".join(f"{option.key}={choice}" for choice in option.choices or [""])
            lines.append(
                f"complete -c mmprofile -n '__fish_seen_subcommand_from {name}' -a {_quoted(words)} "
                f"-d {_quoted(option.description)}"
            )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _options(command: str) -> list[Option]:
    """Return what a command takes; truth values have choices, too."""
    configs = CONFIGS_OF.get(command, [command.partition(".")[0]])
    return [
        option._replace(choices=("true", "false")) if option.default in ("true", "false") else option
        for option in {option.key: option for config in configs[::-1] for option in _all_options(config)}.values()
        if "@" not in option.key  # readline would take it for the end of a word
    ]


@cache
def _all_options(config: str) -> list[Option]:
    """Return the options of a configuration, those of each choice of ``data=`` among them."""
    found = {option.key: option for option in options(config)}
    for choice in found["data"].choices if "data" in found else ():
        found = {option.key: option for option in options(config, [f"data={choice}"])} | found
    return [*found.values()]
