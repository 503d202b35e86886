"""The command line: each command's settings become its flags.

A command is a module in :mod:`captioning.cli` with a frozen settings class, and a function
``run(settings) -> exit code``. Only the module of the command that was asked for is imported.
A module may also have ``take_preset(words) -> (other words, settings to begin with)``.
"""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from captioning.errors import CaptioningError, ConfigError
from captioning.messages import suggest


class _Command(NamedTuple):
    module: str
    settings: str
    summary: str


_COMMANDS = {
    "caption": _Command("caption", "CaptionConfig", "caption photos and folders"),
    "merge": _Command("merge", "MergeConfig", "merge the partitions of a run"),
    "convert": _Command("convert", "ConvertConfig", "convert captions to another file format"),
    "samples": _Command("samples", "SamplesConfig", "write sample photos into a folder"),
    "train": _Command("train", "RunConfig", "train a model on captioned photos"),
    "evaluate": _Command("evaluate", "EvaluateConfig", "caption a split and score it"),
    "score": _Command("score", "ScoreConfig", "score anybody's captions"),
    "compare": _Command("compare", "CompareConfig", "say which of two systems is better"),
    "info": _Command("info", "InfoConfig", "say what is in a model directory"),
}
DONE, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``captioning`` with the words of the command line, and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may be beyond its encoding
    try:
        code = _run(words)
        _flush()
    except CaptioningError as error:
        print(f"captioning: {error}", file=sys.stderr)  # noqa: T201
        code = WRONG_USAGE if isinstance(error, ConfigError) else SOME_FAILED
    except KeyboardInterrupt:
        print("captioning: interrupted", file=sys.stderr)  # noqa: T201
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        code = SOME_FAILED
    except OSError as error:
        named = f"{error.filename}: {error.strerror}. Is it there, is there room, and the right?"
        unnamed = f"The results cannot be written: {error}"  # on standard output
        print(f"captioning: {named if error.filename else unnamed}", file=sys.stderr)  # noqa: T201
        code = SOME_FAILED
    _drop_unwritten()
    raise SystemExit(code)


def _drop_unwritten() -> None:
    """Keep Python from trying once more, at its end, what standard output has refused."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flush() -> None:
    if sys.stdout is not None:  # as it is where standard output was closed
        sys.stdout.flush()


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())  # noqa: T201
        return DONE if words else WRONG_USAGE
    if words[0] in ("-V", "--version"):
        from captioning import __version__

        print(f"captioning {__version__}")  # noqa: T201
        return DONE
    name = words[0]
    if name not in _COMMANDS:
        raise ConfigError(
            f"There is no command {name!r}.{suggest(name, _COMMANDS)}\n\n{_overview()}"
        )
    import tyro

    command = _COMMANDS[name]
    module = importlib.import_module(f"captioning.cli.{command.module}")
    words, default = words[1:], None
    if hasattr(module, "take_preset"):
        words, default = module.take_preset(words)
    settings = tyro.cli(
        getattr(module, command.settings),
        prog=f"captioning {name}",
        description=module.__doc__,
        args=words,
        default=default,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return int(module.run(settings))


def _overview() -> str:
    lines = [f"  {name:10} {command.summary}" for name, command in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: captioning COMMAND ...",
            "",
            "Caption photos with a CNN and a recurrent decoder.",
            "",
            *lines,
            "",
            "captioning COMMAND --help lists the command's settings.",
        ]
    )
