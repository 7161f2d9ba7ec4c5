"""The key file."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchhub.auth.secrets import load_or_create_key
from batchhub.core.errors import ConfigError
from tests.needs import need_root


def test_made_once(tmp_path) -> None:
    file = tmp_path / "key"
    key = load_or_create_key(file)
    assert len(key) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_or_create_key(file) == key
    assert os.listdir(tmp_path) == ["key"]


def test_many_start_at_once(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load_or_create_key, [tmp_path / "key"] * 40))) == 1
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_others_may_not_read_it(tmp_path, mode) -> None:
    file = tmp_path / "key"
    load_or_create_key(file)
    file.chmod(mode)
    with pytest.raises(ConfigError, match="by others"):
        load_or_create_key(file)


@pytest.mark.parametrize("text", ["", "hello", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n\n"])
def test_what_is_no_key(tmp_path, text) -> None:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(ConfigError, match="does not hold a key"):
        load_or_create_key(file)
    assert file.read_text() == text, "never replaced"


def test_what_is_no_file(tmp_path) -> None:
    load_or_create_key(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "directory").mkdir(0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "dangling", "directory", "pipe"):
        with pytest.raises(ConfigError):
            load_or_create_key(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be made: No such file"):
        load_or_create_key(tmp_path / "no" / "key")


def test_somebody_elses(tmp_path) -> None:
    need_root()
    file = tmp_path / "key"
    load_or_create_key(file)
    os.chown(file, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to uid 65534"):
        load_or_create_key(file)
