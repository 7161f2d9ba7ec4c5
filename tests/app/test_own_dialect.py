"""A dialect that is somebody else's, as docs/dialects.md shows it: found by its place or by an entry point, checked at start, used for a job."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.site import make_dialect, read_site
from batchhub.config.traits import BatchHub
from batchhub.core.errors import ConfigError
from batchhub.core.model import JobState
from batchhub.core.ports import Completed, JobRequest
from batchhub.job.render import SAMPLE, Renderer
from tests.fakesched.engine import Cluster

DOCS = Path(__file__).parents[2] / "docs/dialects.md"


def blocks(kind: str) -> list[str]:
    """The example's code, as the page has it."""
    page = DOCS.read_text(encoding="utf-8").partition("### One's own: an example")[2].partition("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example as an installed package, and its template."""
    (code,), (template,) = blocks("python"), blocks("jinja")
    (tmp_path / "campus.py").write_text(code)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/campus.sh.j2").write_text(template)
    about = tmp_path / "campus-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: campus\nVersion: 1.0\n")
    points = tomllib.loads(blocks("toml")[1])["project"]["entry-points"]["batchhub.schedulers"]
    (about / "entry_points.txt").write_text(
        "[batchhub.schedulers]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "campus", raising=False)
    return tmp_path


def site(package: Path, **changes: Any) -> Any:
    clusters = tomllib.loads(blocks("toml")[0])["clusters"]
    clusters["campus"] |= changes
    return read_site(BatchHub(clusters=clusters, template_dirs=[str(package / "templates")]))


@pytest.mark.parametrize("scheduler", ["campus:Campus", "campus"])
def test_a_job_by_somebody_else_s_dialect(package: Path, tmp_path: Path, scheduler: str) -> None:
    found = site(package, scheduler=scheduler)
    SiteJobBuilder(found, b"k" * 32).check()
    dialect = make_dialect(found.cluster("campus"))
    assert dialect.name == "campus"
    script = Renderer(found.template_dirs).render("campus", SAMPLE)
    assert "#SBATCH --mem=8192M\n#SBATCH --time=08:00:00\n" in script
    cluster = Cluster(tmp_path / "cluster").create({"simulate": True})

    def run(command: Any) -> Completed:
        environment = cluster.environment("slurm", "ann") | {"HOME": str(tmp_path)}
        done = subprocess.run(
            command.argv,
            input=command.stdin,
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    job = dialect.read_submit(run(dialect.submit(JobRequest("bh-abcdefghijkl", str(tmp_path), "#!/bin/bash\n", "ann"))))
    assert cluster.job(job).comment == "cost-centre-4711"
    assert dialect.read_status(run(dialect.status([job])), [job]).jobs[job].state is JobState.RUNNING


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheduler_options": {"cost_centre": "x"}}, "cost_centre: a number is expected"),
        ({"scheduler_options": {"cost_center": "4711"}}, "unknown setting 'cost_center'; did you mean 'cost_centre'?"),
        ({"scheduler": "campus:Campsu"}, "campus:Campsu cannot be imported"),
        ({"scheduler": "campsu"}, "'campsu' is not known; did you mean 'campus'?"),
    ],
)
def test_what_is_wrong_with_it_is_said_at_start(package: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        site(package, **changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class Mine:\n  def (", "SyntaxError: "),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("def Mine(): pass", "mine:Mine is no dialect (docs/dialects.md): it has no 'accounting'"),
        ("class Mine(Slurm): pass\ndel Mine", "cannot be imported"),
        ("Mine = Slurm()", "it is no dataclass"),
        ("@dataclass\nclass Mine: a: int = 1", "it has no 'accounting'"),
        ("@dataclass(frozen=True)\nclass Mine(Slurm):\n  def __post_init__(self): raise ValueError('no a')", "no a"),
    ],
)
def test_a_module_that_is_broken_is_no_traceback(package: Path, code: str, words: str, monkeypatch: Any) -> None:
    head = "from dataclasses import dataclass\nfrom batchhub.schedulers.slurm import Slurm\n"
    (package / "mine.py").write_text(head + code)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(ConfigError) as caught:
        make_dialect(site(package, scheduler="mine:Mine", scheduler_options={}).cluster("campus"))
    assert words in str(caught.value)
    assert str(caught.value).startswith("cluster 'campus', scheduler")
