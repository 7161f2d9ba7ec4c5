"""Job scripts: every dialect, a site's own templates, faults named, and values that come back unchanged from a real bash."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, ConfigError, TemplateProblem
from batchhub.job.context import DIALECTS
from batchhub.job.render import SAMPLE, Renderer, check_value

BARE = replace(
    SAMPLE,
    partition="",
    memory_mib=None,
    walltime=None,
    gpus=0,
    gpu_type="",
    account="",
    qos="",
    reservation="",
    constraint="",
    environment={},
)
DOCS = Path(__file__).parents[2] / "docs" / "templates.md"


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if re.match(r"#(SBATCH|PBS|BSUB|LOCAL|CONTAINER) ", line)]


def site(tmp_path: Path, **files: str) -> Renderer:
    for name, text in files.items():
        (tmp_path / f"{name}.sh.j2").write_text(text)
    return Renderer([tmp_path])


def test_slurm() -> None:
    assert directives(Renderer().render("slurm", SAMPLE)) == [
        "#SBATCH --job-name=bh-abcdefghijkl",
        "#SBATCH --output=job.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --partition=gpu",
        "#SBATCH --mem=8192M",
        "#SBATCH --time=08:00:00",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --account=physics",
        "#SBATCH --qos=normal",
        "#SBATCH --reservation=course",
        '#SBATCH --constraint="skylake"',
    ]


def test_pbs_torque_and_lsf() -> None:
    assert "#PBS -l select=1:ncpus=4:mem=8192mb:ngpus=1:gpu_type=a100:skylake" in directives(
        Renderer().render("pbs", SAMPLE)
    )
    assert "#PBS -q course" in directives(Renderer().render("pbs", SAMPLE))
    torque = directives(Renderer().render("torque", SAMPLE))
    assert {"#PBS -l nodes=1:ppn=4:gpus=1:a100:skylake", "#PBS -l mem=8192mb", "#PBS -l walltime=08:00:00"} < set(
        torque
    )
    lsf = directives(Renderer().render("lsf", replace(SAMPLE, memory_unit="KB", walltime=timedelta(seconds=61))))
    assert {
        "#BSUB -n 4",
        '#BSUB -R "span[hosts=1]"',
        '#BSUB -R "rusage[mem=8388608]"',
        "#BSUB -W 2",
        '#BSUB -gpu "num=1:gmodel=a100"',
    } < set(lsf)
    assert directives(Renderer().render("local", SAMPLE)) == ["#LOCAL --nprocs=4", "#LOCAL --walltime=28800"]


@pytest.mark.parametrize("dialect", ["podman", "docker"])
def test_containers(dialect: str) -> None:
    bare = Renderer().render(dialect, BARE)
    assert not [line for line in directives(bare) if "memory" in line or "walltime" in line or "gpu" in line]
    assert "export HOME=/home/a USER=a LOGNAME=a\n" in Renderer().render(
        dialect, replace(BARE, homedir="/home/a", username="a")
    )
    chosen = Renderer().render(
        dialect, replace(SAMPLE, options={"image": "quay.io/lab:2"}, directives=("--shm-size=1g",))
    )
    assert directives(chosen)[0] == "#CONTAINER --image=quay.io/lab:2"
    assert directives(chosen)[-1] == "#CONTAINER --shm-size=1g"
    for image in ("a b", "x --privileged", "x$(id)", "x\n#CONTAINER --privileged", "'x"):
        with pytest.raises((BadInput, TemplateProblem)):
            Renderer().render(dialect, replace(SAMPLE, options={"image": image}))
    with pytest.raises(TemplateProblem, match=r"container\.sh\.j2 of the script|may hold only letters"):
        Renderer().render(dialect, replace(SAMPLE, homedir="/home/a b"))


def test_a_claim_instead_of_the_node_s_homes(tmp_path: Path) -> None:
    """The example of docs/templates.md, as it stands there."""
    page = (Path(__file__).parents[2] / "docs/templates.md").read_text(encoding="utf-8").partition("\n## Pods\n")[2]
    (example,) = re.findall(r"```jinja\n(.*?)```", page, re.DOTALL)
    script = site(tmp_path, kubernetes=example).render("kubernetes", SAMPLE)
    pod = yaml.safe_load("\n".join(line[5:] for line in script.splitlines() if line.startswith("#POD ")))
    assert pod["spec"]["volumes"] == [{"name": "home", "persistentVolumeClaim": {"claimName": "homes"}}]
    (container,) = pod["spec"]["containers"]
    assert container["volumeMounts"] == [{"name": "home", "mountPath": "/home/alice", "subPath": "alice"}]
    assert pod["spec"]["nodeSelector"] == {"pool": "notebooks"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("context", [SAMPLE, BARE], ids=["all", "bare"])
def test_every_dialect_is_valid_shell_with_its_directives_first(dialect: str, context: object) -> None:
    script = Renderer().render(dialect, context)  # type: ignore[arg-type]
    assert script.startswith("#!/bin/bash\n#")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    head = script.split("\numask", 1)[0].splitlines()
    assert all(not line or line.startswith("#") for line in head)
    assert "\n\n#" not in "\n".join(line for line in head if not line.startswith("# "))


def test_a_day_and_more() -> None:
    script = Renderer().render("slurm", replace(SAMPLE, walltime=timedelta(days=5, seconds=1)))
    assert "#SBATCH --time=120:00:01" in script


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.text(st.characters(min_codepoint=32, exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40),
    more=st.text(st.sampled_from("'\"$`\\!;&|<>(){}*~# a"), max_size=20),
)
def test_form_values_come_back_unchanged(tmp_path: Path, value: str, more: str) -> None:
    renderer = site(
        tmp_path,
        local='{% extends "base.sh.j2" %}\n{% block output %}{% endblock %}\n{% block prologue %}{% set shown = options.comment %}\n'
        "# chosen: {{ shown }}\nprintf '%s\\0' {{ options.comment }} \"<{{ options.comment }}>\" '{{ options.more }}' \"$VALUE\"\n"
        "{% endblock %}{% block environment %}\n{{ super() }}printf '%s\\0' \"$VALUE\"; exit\n{% endblock %}",
    )
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    context = replace(
        BARE,
        directory=str(home),
        homedir=str(home),
        options={"comment": value, "more": more},
        environment={"VALUE": value},
    )
    done = subprocess.run(
        ["bash"], input=renderer.render("local", context).encode(), capture_output=True, check=True, env={}
    )
    assert done.stdout.decode().split("\0") == [value, f"<{value}>", more, "", value, ""]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"partition": "gpu\n#SBATCH --x"}, "partition"),
        ({"partition": "gpu --uid=0"}, "partition"),
        ({"account": "a;b"}, "account"),
        ({"constraint": 'a" --uid=0 "'}, "constraint"),
        ({"directory": "relative"}, "directory"),
        ({"homedir": "/a\x00"}, "homedir"),
        ({"nprocs": 0}, "nprocs"),
        ({"gpus": -1}, "gpus"),
        ({"memory_mib": 0}, "memory"),
        ({"walltime": timedelta(0)}, "walltime"),
        ({"options": {"comment": "a\rb"}}, "options.comment"),
        ({"options": {"comment": "a" * 5000}}, "options.comment"),
        ({"environment": {"A": "x\ny"}}, "environment A"),
        ({"environment": {"A B": "x"}}, "environment"),
        ({"prologue": "module load x\r\n"}, "prologue"),
        ({"directives": ("--a\n--b",)}, "directives"),
    ],
)
def test_bad_values_name_their_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(field)}: "):
        Renderer().render("slurm", replace(SAMPLE, **changes))  # type: ignore[arg-type]


def test_single_values() -> None:
    check_value("comment", "fine")
    with pytest.raises(BadInput, match=r"^comment: "):
        check_value("comment", "a\tb")
    with pytest.raises(ConfigError):
        Renderer().render("lsf", replace(SAMPLE, memory_unit="XB"))


def test_a_sites_template_of_the_same_name_extends_ours(tmp_path: Path) -> None:
    for parent in ("slurm.sh.j2", "batchhub/slurm.sh.j2"):
        renderer = site(
            tmp_path,
            slurm=f'{{% extends "{parent}" %}}\n{{% block prologue %}}\n# ours\n{{{{ super() }}}}{{% endblock %}}',
        )
        script = renderer.check("slurm", replace(SAMPLE, prologue="module load x"))
        assert "#SBATCH --cpus-per-task=4" in script
        assert "# ours\nmodule load x\n" in script


def test_a_sites_base_serves_every_dialect(tmp_path: Path) -> None:
    renderer = site(tmp_path, base='{% extends "base.sh.j2" %}{% block epilogue %}echo the end{% endblock %}')
    assert all("echo the end" in renderer.render(dialect, SAMPLE) for dialect in DIALECTS)


def test_a_batchspawner_script_is_brought_along(tmp_path: Path) -> None:
    text = (
        "#!/bin/bash\n#SBATCH --partition={{partition}}\n#SBATCH --time={{runtime}}\n{% if memory %}#SBATCH --mem={{memory}}\n{% endif %}"
        "{% if gres %}#SBATCH --gres={{gres}}\n{% endif %}{% if options %}#SBATCH {{options}}\n{% endif %}\n"
        "{{prologue}}\n{{cmd}}\n{{epilogue}}\n"
    )
    script = site(tmp_path, slurm=text).render("slurm", replace(SAMPLE, directives=("--mail-type=NONE", "-x 'n1 n2'")))
    assert "#SBATCH --mail-type=NONE -x 'n1 n2'\n" in script
    assert "\npython3 -I /home/alice/.batchhub/jobs/abcdefghijkl/launch.py\n" in script


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "#!/bin/bash\n\n{{ partiton }}",
            "Template slurm.sh.j2, line 3: the variable 'partiton' is not known; did you mean 'partition'?",
        ),
        ("#!/bin/bash\n{{ options.coment }}", "line 2: there is no option 'coment'; did you mean 'comment'?"),
        ("#!/bin/bash\n{% if x %", "line 2: "),
        ("#!/bin/bash\n{% extends 'nothing.j2' %}", "there is no template 'nothing.j2'"),
        ("#!/bin/bash\n{{ ''.__class__ }}", "line 2: "),
        ("#!/bin/bash\n{{ environment }}", "printed as a whole"),
        ("#!/bin/bash\n{{ 'a\\nb' }}", "control character"),
        ("#!/bin/bash\n{{ 1 / 0 }}", "line 2: division by zero"),
        ("echo", "must begin with '#!'"),
        ("#!/bin/bash\x02", "control characters"),
        ("#!/bin/bash\n#SBATCH --comment={{ options.comment }}", "may hold only letters"),
        ("#!/bin/bash\n{% include 'base.sh.j2' %}{% include 'slurm.sh.j2' %}", ""),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, words: str) -> None:
    context = replace(SAMPLE, options={"comment": "a b"})
    if not words:
        site(tmp_path, slurm=text).render("slurm", context)
        return
    with pytest.raises(TemplateProblem) as caught:
        site(tmp_path, slurm=text).render("slurm", context)
    assert words in str(caught.value)


def test_a_circle_of_templates(tmp_path: Path) -> None:
    renderer = site(tmp_path, slurm='{% extends "a.sh.j2" %}', a='{% extends "b.sh.j2" %}', b='{% extends "a.sh.j2" %}')
    with pytest.raises(TemplateProblem, match="circle"):
        renderer.render("slurm", SAMPLE)


def test_unknown_variables_in_branches_not_taken(tmp_path: Path) -> None:
    renderer = site(
        tmp_path,
        slurm='{% extends "slurm.sh.j2" %}\n{% block prologue %}{% if ngpus > 8 %}{{ acount }}{% endif %}{% endblock %}',
    )
    renderer.render("slurm", SAMPLE)
    with pytest.raises(TemplateProblem, match=r"line 2: the variable 'acount'.*'account'"):
        renderer.check("slurm")
    site(
        tmp_path,
        slurm='{% extends "slurm.sh.j2" %}{% block prologue %}{% if x is defined %}{{ x }}{% endif %}{% endblock %}',
    ).check("slurm")


def test_blocks_macros_and_filters_keep_values_safe(tmp_path: Path) -> None:
    text = (
        "#!/bin/bash\n{% macro say(x) %}echo {{ x }}{% endmacro %}{{ say(options.comment) }}\n"
        "{% set kept %}{{ options.comment }}{% endset %}echo {{ kept }} {{ kept|upper }} {{ 'x=' ~ options.comment }}\n"
        "echo {{ options.comment|raw }} {{ true }} {{ none }}{{ 5 }} {{ 'a' in options }} {{ options.comment|quote }}\n"
        "{% for name in options %}{{ name }}{% endfor %}\n"
    )
    script = site(tmp_path, slurm=text).render("slurm", replace(SAMPLE, options={"comment": "a b"}))
    assert script.splitlines()[1:] == [
        "echo 'a b'",
        "echo 'a b' 'A B' 'x=a b'",
        "echo a b true 5 false 'a b'",
        "comment",
    ]


def test_the_script_runs_signals_pass_and_the_epilogue_follows(tmp_path: Path) -> None:
    directory = tmp_path / "with space"
    directory.mkdir()
    (directory / "launch.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: (print('got it', flush=True), sys.exit(7)))\n"
        "print(os.getcwd(), os.environ.get('XDG_RUNTIME_DIR'), os.environ['EXAMPLE'], flush=True)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    context = replace(
        BARE,
        directory=str(directory),
        homedir=str(tmp_path),
        python=sys.executable,
        prologue="echo before",
        epilogue='echo after "$batchhub_code" >>"$PWD/epilogue"',
        environment={"EXAMPLE": "it's"},
    )
    done = subprocess.run(
        ["bash"],
        input=Renderer().render("local", context).encode(),
        env={"XDG_RUNTIME_DIR": "/x", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 7
    log = (directory / "job.log").read_text().splitlines()
    assert log == ["before", f"{tmp_path} None it's", "got it"]
    assert (directory / "epilogue").read_text() == "after 7\n"


def examples() -> list[tuple[str, str]]:
    found = re.findall(r"```jinja\n\{# (\S+) #\}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [(name, text) for name, text in found]


@pytest.mark.parametrize(("name", "text"), examples(), ids=lambda v: v if v.endswith(".j2") else "")
def test_each_documented_template_renders(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    dialects = DIALECTS if name == "base.sh.j2" else (name.partition(".")[0],)
    for dialect in dialects:
        script = Renderer([tmp_path]).check(
            dialect, replace(SAMPLE, options={"project_dir": "/proj/a b", "image": "/sif/x.sif"})
        )
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_documented_prologues_render_and_the_venv_one_works(tmp_path: Path) -> None:
    prologues = re.findall(r"```bash\n# prologue: (\w+)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert {name for name, _ in prologues} >= {"modules", "conda", "venv"}
    for _, text in prologues:
        subprocess.run(
            ["bash", "-n"], input=Renderer().render("slurm", replace(SAMPLE, prologue=text)), text=True, check=True
        )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "envs" / "lab")], check=True)
    directory = tmp_path / "job"
    directory.mkdir()
    (directory / "launch.py").write_text(
        "import json, os, shutil; print(json.dumps([shutil.which('python3'), os.environ['VIRTUAL_ENV']]))"
    )
    context = replace(BARE, directory=str(directory), homedir=str(tmp_path), prologue=dict(prologues)["venv"])
    script = Renderer().render("local", context)
    subprocess.run(["bash"], input=script.encode(), env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    environment = str(tmp_path / "envs" / "lab")
    assert json.loads((directory / "job.log").read_text()) == [f"{environment}/bin/python3", environment]


def test_every_variable_is_documented() -> None:
    text = DOCS.read_text()
    assert [name for name in SAMPLE.variables("slurm") if f"`{name}`" not in text] == []
