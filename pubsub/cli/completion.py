"""`pubsub completion SHELL`: the completion for bash, zsh or fish, and `pubsub completion man`: the manual page.

They are generated from the parsers, so they are always complete.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version

from pubsub.cli import COMMANDS, OK
from pubsub.cli.parsers import commands_of, make_parser
from pubsub.cli.streams import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `completion`."""
    parser.add_argument("what", choices=("bash", "zsh", "fish", "man"), help="the shell, or man for the manual page")
    parser.epilog = (
        'bash, in ~/.bashrc: eval "$(pubsub completion bash)"; zsh, in ~/.zshrc: the same with zsh; '
        "fish: pubsub completion fish > ~/.config/fish/completions/pubsub.fish; "
        "man: pubsub completion man > ~/.local/share/man/man1/pubsub.1"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `completion`."""
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish, "man": _manual}[arguments.what]
    show(make(_parsers()).removesuffix("\n"))
    return OK


Parsers = dict[str, argparse.ArgumentParser]


def _parsers() -> Parsers:
    """Return the parser of each command."""
    return commands_of(make_parser(*COMMANDS))


def _with_verbs(parsers: Parsers) -> Parsers:
    """Return the parsers of all commands, and of their verbs: `aws`, `aws whoami`."""
    found: Parsers = {}
    for name, parser in parsers.items():
        verbs = _with_verbs(commands_of(parser))
        found |= {name: parser, **{f"{name} {verb}": each for verb, each in verbs.items()}}
    return found


def _choices(parser: argparse.ArgumentParser) -> list[str]:
    """Return the words that a positional argument takes: choices, or verbs."""
    return [str(word) for action in parser._get_positional_actions() for word in action.choices or ()]


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS)


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _takes_file(action: argparse.Action) -> bool:
    return action.metavar in ("FILE", "PNG", "DIR")


# The shells.

_BASH = """\
# bash completion of pubsub
_pubsub() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    if [ $COMP_CWORD = 1 ]; then
        COMPREPLY=($(compgen -W '{commands} --help --version' -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
}}
complete -o default -F _pubsub pubsub
"""

_ZSH = """\
#compdef pubsub
# zsh completion of pubsub
_pubsub() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}
compdef _pubsub pubsub
"""


def _bash(parsers: Parsers) -> str:
    return _BASH.format(commands=" ".join(parsers), cases=_bash_cases(parsers, 2))


def _bash_cases(parsers: Parsers, verb_at: int) -> str:
    lines = []
    for name, parser in parsers.items():
        lines.append(f"    {name})")
        if verbs := commands_of(parser):
            lines += [
                f"        if [ $COMP_CWORD -gt {verb_at} ]; then",
                f'        case "${{COMP_WORDS[{verb_at}]}}" in',
            ]
            lines += [_bash_cases(verbs, verb_at + 1), "        esac", "        return", "        fi"]
        lines.append('        case "$before" in')
        for action in filter(_takes_value, _options(parser)):
            # Without a reply bash completes files (`-o default`), with the "/" of directories and quotes for spaces.
            reply = f"compgen -W '{_words(action.choices)}' -- \"$word\"" if action.choices else ""
            lines.append(f"        {'|'.join(action.option_strings)}) COMPREPLY=($({reply})); return ;;")
        every = [*_choices(parser), *(option for action in _options(parser) for option in action.option_strings)]
        lines += ["        esac", f"        COMPREPLY=($(compgen -W '{_words(every)}' -- \"$word\")) ;;"]
    return "\n".join(lines)


_ZSH_ESCAPES = str.maketrans({"\\": "\\\\", "'": "'\\''", "[": "\\[", "]": "\\]", ":": "\\:"})


def _zsh(parsers: Parsers) -> str:
    commands = [f"        '{name}:{summary.translate(_ZSH_ESCAPES)}'" for name, summary in COMMANDS.items()]
    return _ZSH.format(commands="\n".join(commands), cases=_zsh_cases(parsers))


def _zsh_cases(parsers: Parsers) -> str:
    lines = []
    for name, parser in parsers.items():
        lines.append(f"    {name})")
        if verbs := commands_of(parser):
            lines += ["        if (( CURRENT > 2 )); then", "        local verb=$words[2]"]
            lines += ["        shift words", "        (( CURRENT-- ))", "        case $verb in"]
            lines += [_zsh_cases(verbs), "        esac", "        return", "        fi"]
        lines.append("        _arguments \\")
        for action in _options(parser):
            value = ""
            if _takes_value(action):
                choices = f"({_words(action.choices)})" if action.choices else "_files" if _takes_file(action) else " "
                value = f":{str(action.metavar or action.dest).translate(_ZSH_ESCAPES)}:{choices}"
            says = _help(action).translate(_ZSH_ESCAPES)
            lines += [f"            '*{option}[{says}]{value}' \\" for option in action.option_strings]
        if words := _choices(parser):
            lines.append(f"            '1: :({_words(words)})' \\")
        lines += ["            '*: :_default'", "        ;;"]
    return "\n".join(lines)


def _fish(parsers: Parsers) -> str:
    escapes = str.maketrans({"\\": "\\\\", "'": "\\'"})
    lines = ["# fish completion of pubsub", "complete -c pubsub -f"]
    for name, parser in _with_verbs(parsers).items():
        verbs = commands_of(parser)
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        if name in COMMANDS:
            summary = COMMANDS[name].translate(escapes)
            lines.append(f"complete -c pubsub -n __fish_use_subcommand -a {name} -d '{summary}'")
        for verb, each in verbs.items():
            unseen = f"{seen}; and not __fish_seen_subcommand_from {_words(verbs)}"
            summary = (each.description or "").translate(escapes)
            lines.append(f"complete -c pubsub -n '{unseen}' -a {verb} -d '{summary}'")
        if (words := _choices(parser)) and not verbs:
            lines.append(f"complete -c pubsub -n '{seen}' -a '{_words(words)}'")
        for action in _options(parser):
            parts = [f"complete -c pubsub -n '{seen}'"]
            for option in action.option_strings:
                parts.append(f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}")
            if _takes_value(action):
                parts.append("-r -F" if _takes_file(action) else "-r")
            if action.choices:
                parts.append(f"-a '{_words(action.choices)}'")
            lines.append(" ".join([*parts, f"-d '{_help(action).translate(escapes)}'"]))
    return "\n".join([*lines, ""])


def _words(words: Iterable[object]) -> str:
    return " ".join(map(str, words))


# The manual page.

_MANUAL = r"""
.TH PUBSUB 1 "" "mqttws-pubsub {version}" "User Commands"
.SH NAME
pubsub \- publish and subscribe over MQTT 3.1.1, in a WebSocket or over TCP
.SH SYNOPSIS
{synopsis}
{commands}
.SH EXIT STATUS
0: success; 1: failure; 2: an error in the command line; 3: no connection; 4: the server refused the client;
27: the time was up; 130: interrupted.
.SH ENVIRONMENT
PUBSUB_URL, PUBSUB_USERNAME, PUBSUB_PASSWORD: defaults for what neither an option nor the URL sets; NO_COLOR: no colour.
.SH FILES
~/.config/pubsub/COMMAND: options of pub, sub and rr, one per line.
"""


def _manual(parsers: Parsers) -> str:
    """Return a page for man(7)."""
    lines = []
    parsers = _with_verbs(parsers)
    for name, parser in parsers.items():
        lines += [f".SH PUBSUB {name.upper()}", _roff(parser.description or "")]
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            if actions:
                lines += [f".SS {_roff(group.title or '')}", _roff(group.description or "")]
            for action in actions:
                names = [f"\\fB{_roff(option)}\\fR" for option in action.option_strings]
                value = f" \\fI{_roff(str(action.metavar or action.dest.upper()))}\\fR" if _takes_value(action) else ""
                lines += [".TP", ", ".join(names) + value, _roff(_help(action))]
        lines += [".PP", _roff(parser.epilog or "")]
    synopsis = "\n".join(f".B pubsub {name}\n.RI [ options ] ...\n.br" for name in parsers)
    commands = "\n".join(line for line in lines if line)
    return _MANUAL.lstrip().format(version=version("mqttws-pubsub"), synopsis=synopsis, commands=commands)


def _roff(text: str) -> str:
    """Escape text for roff: backslashes, dashes, and a line that would be a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)
