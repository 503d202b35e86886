"""Entry point of the command line.

Each command is a module of :mod:`captioning.cli` with a function ``run(config) -> exit code``; that
of ``data check`` is ``data_check``. The type of ``config`` is a frozen dataclass, whose fields
become the flags. Only the module of the requested command is imported. A module may define
``parse(words)``, which returns the config, or a tuple of several.
"""

import importlib
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence

from captioning.errors import CaptioningError, ConfigError, TrainingStoppedError
from captioning.messages import suggest
from captioning.processes import (
    SECONDS_FOR_MESSAGE,
    STOPPED,
    launched_index,
    refuse_unused_options,
)

COMMANDS = {
    "caption": "caption images and folders",
    "explain": "show how the model captions an image",
    "merge": "merge the partitions of a run",
    "convert": "convert captions to another file format",
    "samples": "copy sample images into a folder",
    "data check": "find problems in captioned data",
    "data download": "download a public data set",
    "data archive": "write captioned data as tar archives",
    "features": "encode images before training",
    "train": "train a model on captioned images",
    "recipes": "list the recipes of published models",
    "recipes show": "print a recipe as a config file",
    "export": "write a model as ONNX or OpenVINO graphs",
    "calibrate": "prepare a model for int8",
    "evaluate": "caption a data set split and score the captions",
    "score": "score a file of captions",
    "compare": "compare the captions of two systems",
    "web": "show captions in a web browser, and correct them",
    "serve": "caption images over HTTP",
    "info": "show what a model directory contains",
}
DONE, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``captioning`` with the given arguments (default: those of the process), and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may contain characters that the encoding of stdout does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        _flush()
    except TrainingStoppedError as error:
        _print_error(str(error), same_in_all=True)
        code = STOPPED
    except CaptioningError as error:
        _print_error(str(error), same_in_all=isinstance(error, ConfigError))
        code = WRONG_USAGE if isinstance(error, ConfigError) else SOME_FAILED
    except KeyboardInterrupt:
        _print_error("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of stdout, such as `head`, has exited
        code = SOME_FAILED
    except OSError as error:
        _print_error(_describe_os_error(error))
        code = SOME_FAILED
    _discard_unwritten()
    raise SystemExit(code)


def _print_error(message: str, *, same_in_all: bool = False) -> None:
    """Print an error; of those that all processes of a job have, only that of the main process."""
    index = launched_index()
    if index and same_in_all:
        time.sleep(SECONDS_FOR_MESSAGE)
        return
    process = f" (process {index + 1})" if index else ""
    print(f"captioning{process}: {message}", file=sys.stderr)  # noqa: T201


def _describe_os_error(error: OSError) -> str:
    if error.filename:
        advice = "Check that the path exists, is writable, and has free space."
        return f"{error.filename}: {error.strerror}. {advice}"
    return f"cannot write to standard output: {error}"


def _discard_unwritten() -> None:
    """Discard output that stdout refused, so that Python does not write it again at exit."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flush() -> None:
    if sys.stdout is not None:  # None if the process was started with a closed stdout
        sys.stdout.flush()


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())  # noqa: T201
        return DONE if words else WRONG_USAGE
    if words[0] in ("-V", "--version"):
        from captioning import __version__

        print(f"captioning {__version__}")  # noqa: T201
        return DONE
    names = [name for name in COMMANDS if words[: name.count(" ") + 1] == name.split()]
    name = max(names, key=len, default="")
    if not name:
        return _refuse_command(words)
    from captioning.cli.help_texts import config_type, name_flags, parse_config

    refuse_unused_options()
    module = importlib.import_module(f"captioning.cli.{name.replace(' ', '_')}")
    words, config_class = words[name.count(" ") + 1 :], config_type(module.run)
    try:
        if hasattr(module, "parse"):
            return int(module.run(module.parse(words)))
        return int(module.run(parse_config(name, config_class, words, module.__doc__)))
    except CaptioningError as error:
        raise type(error)(name_flags(str(error), config_class)) from error


def _refuse_command(words: list[str]) -> int:
    """Print the commands of a group such as ``data``, or raise ConfigError."""
    group = {name: text for name, text in COMMANDS.items() if name.split()[0] == words[0]}
    if group and words[1:] in ([], ["-h"], ["--help"]):
        print(_overview(f"{words[0]} ", group))  # noqa: T201
        return DONE if words[1:] else WRONG_USAGE
    known, name = (group, " ".join(words[:2])) if group else (COMMANDS, words[0])
    overview = _overview(f"{words[0]} " if group else "", known)
    raise ConfigError(f"unknown command {name!r}.{suggest(name, known)}\n\n{overview}")


def _overview(group: str = "", commands: Mapping[str, str] = COMMANDS) -> str:
    lines = "\n".join(f"  {name:14} {summary}" for name, summary in commands.items())
    package = "Caption images with a CNN encoder and a recurrent decoder."
    return (
        f"usage: captioning {group}COMMAND ...\n\n"
        f"{'Check, download and archive captioned data.' if group else package}\n\n"
        f"{lines}\n\n"
        "  -h, --help     show this help and exit\n"
        "  -V, --version  show the version and exit\n\n"
        f"captioning {group}COMMAND --help lists the options of a command."
    )
