"""The vault's key file: made once, ours alone, followed while it changes, changed by one at a time."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchhub.auth.vaultfile import MOST_KEYS, VaultFile
from batchhub.core.errors import ConfigError, Conflict

STATE = {"token": "of ann"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vault.keys"


def test_made_at_the_first_use_and_ours_alone(path) -> None:
    sealed = VaultFile(path).current().seal("x", "ann", STATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert VaultFile(path).current().open("x", "ann", sealed) == STATE
    assert len(VaultFile(path).read_keys()) == 1
    assert os.listdir(path.parent) == ["vault.keys"]


def test_a_file_that_goes_is_missed(path, caplog) -> None:
    hub = VaultFile(path)
    sealed = hub.current().seal("x", "ann", STATE)
    assert not caplog.text
    kept = path.read_bytes()
    path.unlink()
    assert hub.current().open("x", "ann", sealed) is None
    assert "vault.keys is gone" in caplog.text
    path.write_bytes(kept)
    assert hub.current().open("x", "ann", sealed) == STATE, "put back it is used at once"


def test_many_start_at_once_with_one_key(path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: (VaultFile(path).current(), VaultFile(path).read_keys())[1], range(40)))) == 1


def test_who_runs_follows_the_file(path) -> None:
    hub, admin = VaultFile(path), VaultFile(path)
    before = hub.current().seal("x", "ann", STATE)
    assert hub.current() is hub.current(), "read again only after a change"
    admin.current()
    with admin.changing():
        admin.add()
    assert hub.current().stale(before)
    after = hub.current().seal("x", "ann", STATE)
    assert hub.current().open("x", "ann", before) == STATE
    with admin.changing():
        assert admin.keep_newest() == 1
    assert hub.current().open("x", "ann", before) is None
    assert hub.current().open("x", "ann", after) == STATE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_changes_it_at_a_time(path) -> None:
    file = VaultFile(path)
    file.current()
    with file.changing(), pytest.raises(Conflict, match="at work"), VaultFile(path).changing():
        pass
    with VaultFile(path).changing():
        pass


def test_keys_do_not_pile_up(path) -> None:
    file = VaultFile(path)
    file.current()
    for _ in range(MOST_KEYS - 1):
        file.add()
    assert len(set(file.read_keys())) == MOST_KEYS
    with pytest.raises(ConfigError, match="vault finish"):
        file.add()


@pytest.mark.parametrize("text", [b"", b"hello\n", b"k" * 42, b"\xff" * 44])
def test_what_holds_no_keys_is_never_replaced(path, text) -> None:
    path.touch(0o600)
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="must hold 1 to"):
        VaultFile(path).current()
    assert path.read_bytes() == text


def test_what_others_can_read_is_refused(path) -> None:
    VaultFile(path).current()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"by others \(mode 0640\).*vault rotate"):
        VaultFile(path).current()


def test_a_link_is_refused_and_a_missing_file_has_no_keys(path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        VaultFile(path).read_keys()
    VaultFile(path.with_name("real")).current()
    path.symlink_to("real")
    with pytest.raises(ConfigError, match="cannot be read"):
        VaultFile(path).current()


def test_its_age(path) -> None:
    VaultFile(path).current()
    os.utime(path, (1000, 1000))
    assert VaultFile(path).age(1060) == 60
