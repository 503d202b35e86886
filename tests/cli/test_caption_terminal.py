"""``captioning caption`` in a process of its own: terminal, pipes and signals."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from caption_runs import read_rows
from small_captioner import write_photos

from captioning.cli.stopping import Stopping

COMMAND = [sys.executable, "-m", "captioning", "caption"]
QUICK = ("--workers", "0", "--precision", "float32")  # a process starts in half the time


def run_on_terminal(words, *, piped):
    """Run a command with standard error, and unless piped standard output, on a terminal.

    Returns:
        Exit code, what the terminal received, and what the pipe received.
    """
    import pty

    ours, its = pty.openpty()
    stdout = subprocess.PIPE if piped else its
    with subprocess.Popen(words, stdout=stdout, stderr=its) as process:
        os.close(its)
        shown = b""
        with suppress(OSError):  # Linux reports the end of a terminal as an error
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        through = process.stdout.read() if piped else b""
    return process.returncode, shown.decode(), through.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_progress_bar_is_hidden_if_rows_are_shown(model, tmp_path):
    write_photos(tmp_path, 3)
    words = [*COMMAND, str(tmp_path), "--model", str(model), "--format", "csv", *QUICK]
    code, bar, rows = run_on_terminal(words, piped=True)
    assert code == 0
    assert "3/3" in bar
    assert "photo1" not in bar
    assert all(name in rows for name in ("photo1.jpg", "photo2.jpg", "photo3.jpg"))
    code, shown, _ = run_on_terminal(words, piped=False)
    assert code == 0
    assert [line.rstrip() for line in shown.splitlines() if line.strip()] == rows.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="signals to a process group")
def test_ctrl_c_leaves_whole_rows_and_no_traceback(model, tmp_path):
    (photo,) = write_photos(tmp_path, 1)
    for number in range(4000):
        os.link(photo, tmp_path / f"link{number}.jpg")
    output = tmp_path / "rows.jsonl"
    words = [*COMMAND, str(tmp_path), "-o", str(output), "--model", str(model)]
    with subprocess.Popen(
        [*words, "--batch-size", "2"], stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        while process.poll() is None and not (output.exists() and output.stat().st_size):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("captioning: interrupted")
    assert "Traceback" not in err
    assert output.read_text().endswith("\n")
    assert 0 < len(read_rows(output)) < 4000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device_and_closed_pipe_end_without_traceback(model, tmp_path):
    write_photos(tmp_path, 40)
    words = [*COMMAND, str(tmp_path), "--model", str(model), "--precision", "float32"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("captioning: cannot write ")
    assert ran.stderr.count("\n") == 1
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_closed_stdout_is_reported_without_traceback(model, photos):
    for words, code, message in (
        ("--version", 0, ""),
        (f"caption {photos[0]} --model {model} {' '.join(QUICK)}", 1, "standard output is closed"),
    ):
        shell = ["sh", "-c", f"{sys.executable} -m captioning {words} >&-"]
        ran = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
        assert message in ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP")
def test_stopping_ignores_hangup_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            signal.raise_signal(signal.SIGHUP)
        assert not stopping.signal
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stopping_second_signal_interrupts(capfd):
    with Stopping() as stopping:
        signal.raise_signal(signal.SIGINT)
        assert stopping.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "finishing the current batch" in capfd.readouterr().err


def test_stopping_writes_its_message_while_stderr_is_redirected(capfd):
    with Stopping():
        kept = os.dup(2)
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)  # as while Ray starts
            signal.raise_signal(signal.SIGINT)
            os.dup2(kept, 2)
        os.close(kept)
    assert "finishing the current batch" in capfd.readouterr().err


def test_python_files_among_images_are_not_run(model, photos, tmp_path):
    for name in ("json", "captioning", "PIL", "numpy", "struct"):
        (photos[0].parent / f"{name}.py").write_text("open('RUN', 'w').close()")
    command = Path(sys.executable).with_name("captioning")
    words = [command, "caption", ".", "--model", model, "-o", tmp_path / "rows.jsonl"]
    ran = subprocess.run(words, cwd=photos[0].parent, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not (photos[0].parent / "RUN").exists()
