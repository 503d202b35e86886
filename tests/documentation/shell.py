"""A shell whose programs are one function of the test: bash alone decides what their words are."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# Sends its words, standard input and standard output to the test, and receives the exit code.
STAND_IN = f"""#!{sys.executable} -IS
import os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["STAND_INS"] + "/socket")
    socket.send_fds(connection, [os.fsencode("\\0".join(sys.argv))], [0, 1])
    sys.exit(int(connection.recv(3) or 1))
"""


def run_script(code, programs, call, variables=()):
    """Run a shell script in the current folder until the first error, and return the exit code.

    Args:
        code: Text of the script.
        programs: Names, or relative paths, of the programs that it may call.
        call: Stands in for the programs. It gets the words of a command, standard input and
            standard output (text files), and returns the exit code.
        variables: Environment variables, in addition to PATH.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/socket")
        server.listen()
        server.settimeout(0.02)
        for name in programs:
            path = Path(name) if "/" in name else Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(STAND_IN)
            path.chmod(0o755)
        process = subprocess.Popen(
            ["/bin/bash", "-euo", "pipefail", "-c", code],
            env={"PATH": folder, "STAND_INS": folder, **dict(variables)},
            stdin=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.send(str(_answer(connection, call, folder)).encode())
            return process.returncode
        finally:
            process.kill()
            process.wait()


def _answer(connection, call, folder):
    text, (stdin, stdout), *_ = socket.recv_fds(connection, 1 << 16, 2)
    name, *words = os.fsdecode(text).split("\0")
    with os.fdopen(stdin) as read, os.fdopen(stdout, "w") as write:
        return call([name.removeprefix(f"{folder}/"), *words], read, write)
