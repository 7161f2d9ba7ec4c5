"""`batchhub render` and `batchhub db`."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing

import pytest

from batchhub.store.schema import newest_revision

PROFILES = """
c.BatchHub.clusters = {
    "slurm": {}, "pbs": {"scheduler": "pbs"}, "torque": {"scheduler": "torque"}, "lsf": {"scheduler": "lsf"},
    "here": {"scheduler": "local"},
}
c.BatchHub.profiles = [
    {"name": name, "cluster": name, "fields": {"cores": {"max": 8}, "walltime": {"max": "1d"}, "memory": {},
     "partition": {"default": "batch"}, "gpus": {"max": 2}, "account": {}, "course": {"choices": ["none", "ml"]}},
     "prologue": "module load python"}
    for name in ("slurm", "pbs", "torque", "lsf", "here")
]
"""


@pytest.mark.parametrize(
    ("profile", "lines"),
    [
        ("slurm", ["#SBATCH --cpus-per-task=4", "#SBATCH --time=08:00:00", "#SBATCH --partition=batch"]),
        ("pbs", ["#PBS -l walltime=08:00:00", "ncpus=4", "#PBS -q batch"]),
        ("torque", ["#PBS -l walltime=08:00:00", "ppn=4", "#PBS -q batch"]),
        ("lsf", ["#BSUB -W 480", "#BSUB -n 4", "#BSUB -q batch"]),
        ("here", []),
    ],
)
def test_the_script_that_would_be_submitted(inside, profile: str, lines: list[str]) -> None:
    inside.config(PROFILES)
    done = inside(
        "render", f"--profile={profile}", "--user=alice", "--home=/h/alice/", "cores=4", "walltime=8h", "gpus=1"
    )
    assert done.stderr == ""
    assert done.returncode == 0
    for line in [*lines, "module load python", "/h/alice/.batchhub/jobs/preview22222"]:
        assert line in done.stdout
    shell = subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True, check=False)
    assert shell.returncode == 0, shell.stderr


def test_the_first_profile_and_its_defaults(inside) -> None:
    inside.config(PROFILES)
    done = inside("render", "--user=alice")
    assert "#SBATCH" in done.stdout
    assert "/home/alice/.batchhub" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cores=99"], "cores: At most 8; 99 is too much."),
        (["cores=99", "walltime=8"], "walltime: '8' is not a time"),
        (["corez=1"], "'corez=1': NAME=VALUE is expected, with a field of profile 'slurm': "),
        (["cores"], "'cores': NAME=VALUE is expected"),
        (["account=a;id"], "account: 'a;id' does not have the expected form"),
        (["--profile=slrum"], "There is no profile 'slrum'; did you mean 'slurm'?"),
    ],
)
def test_what_the_form_would_refuse_is_refused(inside, words: list[str], sentence: str) -> None:
    inside.config(PROFILES)
    done = inside("render", *words)
    assert sentence in done.stderr
    assert done.stdout == ""
    assert done.returncode in {1, 2}


def test_the_additions_of_a_group_are_shown_and_its_secrets_are_not(inside) -> None:
    additions = [
        {"groups": ["physics"], "environment": {"WHO": "{{ username }} of {{ groups|join('+') }}"}},
        {"name": "s3", "secret": True, "environment": {"KEY": "hunter2"}},
    ]
    inside.config(PROFILES + f"c.BatchHub.additions = {additions!r}\n")
    done = inside("render", "--user=alice", "--groups=staff, physics")
    assert "export WHO='alice of staff+physics'" in done.stdout
    assert "hunter2" not in done.stdout
    assert "WHO" not in inside("render", "--user=alice").stdout
    additions[1]["environment"] = {"KEY": "{{ auth_state.access_token }}"}
    inside.config(PROFILES + f"c.BatchHub.additions = {additions!r}\n")
    done = inside("config", "--check")
    assert "addition 's3', variable KEY: it uses auth_state, of which nothing is kept" in done.stderr
    assert done.returncode == 2


def test_a_sites_template_is_used_and_its_faults_are_named(inside) -> None:
    inside.config(PROFILES + "c.BatchHub.template_dirs = ['mine']\n")
    (inside.home / "mine").mkdir()
    template = inside.home / "mine" / "slurm.sh.j2"
    template.write_text(
        "{% extends 'batchhub/slurm.sh.j2' %}{% block directives %}{{ super() }}#SBATCH --comment=ours\n{% endblock %}"
    )
    assert "#SBATCH --comment=ours" in inside("render").stdout
    template.write_text("#!/bin/bash\n#SBATCH --time={{ runtme }}\n")
    for command in ("render", "config"):
        done = inside(command)
        assert "runtme" in done.stderr
        assert "slurm.sh.j2" in done.stderr
        assert done.returncode == 2


def test_a_new_database_is_made_and_kept(inside) -> None:
    inside.config()
    assert inside("db", "revision").stdout == "The database is empty.\n"
    made = inside("db", "upgrade").stdout
    assert made == f"The database is at revision {newest_revision()}.\n"
    assert inside("db", "upgrade").stdout == made
    assert inside("db", "revision").stdout.strip() in made


def test_somebody_elses_database_is_left_alone(inside) -> None:
    inside.config("c.BatchHub.db_url = 'sqlite:///theirs.sqlite'")
    with closing(sqlite3.connect(inside.home / "theirs.sqlite")) as database:
        database.execute("CREATE TABLE accounts (id INTEGER)")
    done = inside("db", "upgrade")
    assert "holds tables that are not BatchHub's" in done.stderr
    assert done.returncode == 2


def test_a_database_address_that_cannot_be_read(inside) -> None:
    inside.config("c.BatchHub.db_url = 'postgres://hub:geheim@'")
    done = inside("db", "upgrade")
    assert done.returncode in {1, 2}
    assert "geheim" not in done.stderr + done.stdout


def test_the_database_there_and_back(inside) -> None:
    inside.config()
    assert inside("db", "upgrade").returncode == 0
    back = inside("db", "downgrade", "0002")
    assert (back.returncode, back.stdout.count("is at revision 0002")) == (0, 1)
    assert "is gone" in back.stdout
    assert inside("db", "revision").stdout.strip() == "0002"
    wrong = inside("db", "downgrade", "0000")
    assert wrong.returncode == 2
    assert "known: base, 0001" in wrong.stderr


def test_a_copy_of_the_database_while_a_hub_has_it(inside) -> None:
    inside.config()
    inside("db", "upgrade")
    with closing(sqlite3.connect(inside.home / "state/batchhub.sqlite")) as used:
        used.execute(
            "INSERT INTO users (name, admin, created, groups, way) VALUES ('ann', 0, '2026-11-28 12:00:00', '[]', '')"
        )
        used.commit()
        used.execute("DELETE FROM users")  # under way, so not in the copy
        done = inside("db", "backup", "copy.sqlite")
    assert done.stdout == "copy.sqlite is a copy of the database.\n"
    assert (inside.home / "copy.sqlite").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(inside.home / "copy.sqlite")) as copy:
        assert copy.execute("SELECT name FROM users").fetchall() == [("ann",)]
    for words, sentence in (
        (("copy.sqlite",), "is there already"),
        (("nowhere/copy",), "cannot be written: No such file"),
        (("x", "--BatchHub.db_url=postgresql://h/d"), "pg_dump"),
        (("x", "--BatchHub.db_url=sqlite:///none.sqlite"), "There is no database none.sqlite to copy."),
    ):
        assert sentence in inside("db", "backup", *words).stderr
