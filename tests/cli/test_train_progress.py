"""Lines of progress of ``captioning train`` without a terminal."""

import io
import re
import threading
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from captioning.cli.train_progress import TrainingProgressReport
from captioning.training.callback import ENCODING, Progress


@dataclass
class Log:
    """A report with its own clock, and the seconds at which each of its lines was printed."""

    seconds: float = 0.0
    file: io.StringIO = field(default_factory=io.StringIO)
    times: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.report = TrainingProgressReport(
            Console(file=self.file, soft_wrap=True), lambda: self.seconds
        )

    @property
    def lines(self):
        return self.file.getvalue().splitlines()

    def wait(self, seconds, report=lambda second: None):
        """Let time pass: each second the run reports, and the thread checks."""
        for second in range(1, seconds + 1):
            self.seconds += 1
            report(second)
            self.report.print_if_due()
            self.times += [self.seconds] * (len(self.lines) - len(self.times))


@pytest.fixture
def log():
    return Log()


def test_phase_that_reports_nothing_has_lines(log):
    log.report.callback.on_phase("Reading coco:tiny, train")
    log.wait(90)
    assert log.lines[:2] == [
        "Reading coco:tiny, train: 0:00:25 so far.",
        "Reading coco:tiny, train: 0:00:50 so far.",
    ]
    assert log.times == [25, 50, 75]


def test_phase_with_a_count_has_rate_and_time_left(log):
    log.report.callback.on_phase(ENCODING)
    log.report.callback.on_progress(0, 1000)
    log.wait(100, lambda second: log.report.callback.on_progress(10 * second, 1000))
    assert log.lines[0] == "Encoding 1,000 images; later runs use the cache."
    assert log.lines[1] == "Encoding images: 250 of 1,000, 10/s, 0:01:15 left."
    log.report.callback.on_phase("Building the vocabulary")
    log.wait(30)
    assert log.lines[-1].startswith("Building the vocabulary: 0:00:2")


def test_line_of_a_phase_with_a_unit_names_it(log):
    log.wait(30, lambda second: log.report.show("Downloading a.zip", second, 100, "MB"))
    assert log.lines == ["Downloading a.zip: 25 of 100 MB, 1 MB/s, 0:01:15 left."]


def test_speed_of_a_second_total_starts_again(log):
    log.report.start("Reading features")
    log.wait(20, lambda second: log.report.update(10 * second, 200))
    log.wait(25, lambda second: log.report.update(second, 100))
    assert log.lines[-1] == "Reading features: 5 of 100, 1/s, 0:01:35 left."


def test_cached_images_are_not_announced(log):
    log.report.callback.on_phase(ENCODING)
    log.report.callback.on_progress(1000, 1000)
    assert log.lines == []


def test_long_run_has_a_line_every_30_seconds(log):
    callback = log.report.callback
    for epoch in range(4):
        start = 1000 * epoch
        log.wait(1000, lambda s, n=start: callback.on_step(Progress(n + s, 10_000, 80.0, 2.5)))
        callback.on_phase("Captioning validation images")
        log.wait(100, lambda second: callback.on_progress(second // 40, 2))
        callback.on_message(f"Epoch {epoch}: loss 2.500")
        callback.on_phase("Training")
        log.wait(50)
    gaps = [end - start for start, end in zip(log.times, log.times[1:], strict=False)]
    assert max(gaps) <= 30
    assert log.lines[0] == "Training: 25 of 10,000 steps, 80 captions/s, loss 2.500, 2:46:15 left."
    assert any(re.match(r"Captioning validation images: 1 of 2, ", line) for line in log.lines)


def test_thread_prints_while_the_run_is_busy():
    printed = threading.Event()

    class File(io.StringIO):
        def write(self, text):
            printed.set()
            return super().write(text)

    console = Console(file=File(), soft_wrap=True)
    clock = iter(range(0, 10**6, 10))
    with TrainingProgressReport(console, lambda: next(clock), poll=0.01) as report:
        report.callback.on_phase("Tokenizing captions")
        assert printed.wait(timeout=30)
