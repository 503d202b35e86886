"""Replacing an original: everything but its content stays, or it is refused."""

import os
import stat

import pytest
from extended_attributes import ACL, set_attribute

from captioning.bulk.writers.original_files import OriginalFile
from captioning.errors import OutputError

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("content") / "new.jpg"
    path.write_bytes(b"new")
    return path


def test_replace_keeps_permissions_and_attributes(original, content):
    original.chmod(0o640)
    set_attribute(original, "user.xdg.tags", b"family")
    os.utime(original, (1e9, 1e9))
    OriginalFile(original).replace(content, modified_ns=original.stat().st_mtime_ns)
    assert original.read_bytes() == b"new"
    assert stat.S_IMODE(original.stat().st_mode) == 0o640
    assert os.getxattr(original, "user.xdg.tags") == b"family"
    assert original.stat().st_mtime == 1e9
    OriginalFile(original).replace(content)
    assert original.stat().st_mtime > 1e9


@NEEDS_ROOT
def test_replace_keeps_owner_and_access_list(original, content):
    os.chown(original, 65534, 65533)
    original.chmod(0o640)
    set_attribute(original, "system.posix_acl_access", ACL)
    OriginalFile(original).replace(content)
    status = original.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o640)
    assert os.getxattr(original, "system.posix_acl_access") == ACL


def test_replace_changes_the_target_of_a_link(original, content, tmp_path):
    link = tmp_path / "album" / "link.jpg"
    link.parent.mkdir()
    link.symlink_to(original)
    OriginalFile(link).replace(content)
    assert link.is_symlink()
    assert original.read_bytes() == b"new"


def test_hard_link_is_refused(original, content, tmp_path):
    (tmp_path / "other.jpg").hardlink_to(original)
    with pytest.raises(OutputError, match="2 hard links"):
        OriginalFile(original)


def test_other_than_a_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(OutputError):
            OriginalFile(path)


@pytest.mark.parametrize("call", ["os.access", "os.chown", "shutil.copystat"])
def test_loss_of_attributes_is_refused(original, content, monkeypatch, call):
    def fail(*_):
        raise PermissionError(1, "Operation not permitted")

    if call == "os.access":
        monkeypatch.setattr(call, lambda *_: False)
    elif call == "os.chown":
        if os.geteuid() != 0:
            pytest.skip("needs root to make a file of another user")
        os.chown(original, 65534, 65534)
        monkeypatch.setattr(call, fail)
    else:
        set_attribute(original, "user.xdg.tags", b"family")
        monkeypatch.setattr(call, lambda *_: None)
    with pytest.raises(OutputError, match=r"(write-protected|cannot be kept)\..*-o FOLDER"):
        OriginalFile(original).replace(content)
    assert original.read_bytes() == b"old"
    assert list(original.parent.iterdir()) == [original]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_original(original, content, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError, match="No space left"):
        OriginalFile(original).replace(content)
    assert original.read_bytes() == b"old"
    assert list(original.parent.iterdir()) == [original]


def test_change_by_another_program_is_refused(original, content):
    opened = OriginalFile(original)
    original.write_bytes(b"edited")
    with pytest.raises(OutputError, match="another program changed it"):
        opened.replace(content)
    assert original.read_bytes() == b"edited"
