"""Makes a job script from a Jinja template: sandboxed, strict, every value placed safely, every fault named with its line.

A site's directories are searched first, then ours; ours are always there under ``batchhub/`` too. A template that extends its own name
(a site's ``slurm.sh.j2`` with ``{% extends "slurm.sh.j2" %}``) gets ours.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import jinja2
from jinja2.runtime import Undefined

from batchhub.core.errors import BadInput, TemplateProblem
from batchhub.job.context import DIALECTS, JobContext, Options
from batchhub.job.sandbox import CONTROL, UNDEFINED, Assembled, Sandbox, hint, unknown_names
from batchhub.job.shell import MARKS, RawText, mark, mark_raw, place

MAX_SCRIPT = 1024 * 1024
"""Characters in a script; Slurm's own limit is 4 MB."""

_OURS = Path(__file__).parent.parent / "templates" / "job"

SAMPLE = JobContext(
    job_name="bh-abcdefghijkl",
    directory="/home/alice/.batchhub/jobs/abcdefghijkl",
    username="alice",
    homedir="/home/alice",
    partition="gpu",
    nprocs=4,
    memory_mib=8192,
    walltime=timedelta(hours=8),
    gpus=1,
    gpu_type="a100",
    account="physics",
    qos="normal",
    reservation="course",
    constraint="skylake",
    environment={"EXAMPLE": "a value"},
)
"""Stands in for a person's choice when a template is checked or shown."""


def _finalize(value: object) -> str:
    """What one ``{{ … }}`` puts into the text."""
    if isinstance(value, Undefined):
        return str(value)  # StrictUndefined raises its own sentence here
    if isinstance(value, Assembled):
        return value
    if isinstance(value, Options):
        return mark_raw(str(value))
    if isinstance(value, RawText):
        return mark_raw(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        if isinstance(value, str) and CONTROL.search("".join(c for c in value if c not in MARKS)):
            raise TemplateProblem(
                f"the value {value[:60]!r} holds a control character; text of your own goes through |raw"
            )
        return mark(value if isinstance(value, str) else str(value))
    raise TemplateProblem(f"a {type(value).__name__} was printed as a whole; print its items one by one")


class _Environment(Sandbox):
    """Lets a template extend ours of the same name."""

    def join_path(self, template: str, parent: str) -> str:
        return f"batchhub/{template}" if template == parent else template


class _Source(jinja2.BaseLoader):
    """Finds templates and refuses bytes that would be taken for our marks."""

    def __init__(self, loader: jinja2.BaseLoader) -> None:
        self.loader = loader

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        source, path, fresh = self.loader.get_source(environment, template)
        if MARKS.intersection(source) or "\0" in source:
            raise TemplateProblem(f"Template {template}: holds control characters.")
        return source, path, fresh

    def list_templates(self) -> list[str]:
        return self.loader.list_templates()


class Renderer:
    """Renders job scripts. ``site_directories`` are searched in their order, before ours; changed files are read anew."""

    def __init__(self, site_directories: Sequence[Path] = ()) -> None:
        ours = jinja2.FileSystemLoader(_OURS)
        site = [jinja2.FileSystemLoader(path) for path in site_directories]
        search = jinja2.ChoiceLoader([*site, ours, jinja2.PrefixLoader({"batchhub": ours})])
        self._environment = _Environment(
            loader=_Source(search),
            undefined=jinja2.StrictUndefined,
            finalize=_finalize,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters["raw"] = RawText
        self._environment.filters["quote"] = str  # what is printed is quoted anyway; scripts from elsewhere may say so

    def render(self, dialect_name: str, context: JobContext) -> str:
        """The job script. Raises BadInput for a value, TemplateProblem for the template."""
        context.check()
        variables = context.variables(dialect_name)
        name = f"{dialect_name}.sh.j2"
        try:
            text = self._environment.get_template(name).render(variables)
        except (jinja2.TemplateError, TemplateProblem, RecursionError, TypeError, ValueError, ArithmeticError) as error:
            raise self._problem(name, error, variables) from error
        script = place(text, name)
        if not script.startswith("#!"):
            raise TemplateProblem(
                f"Template {name}: the script's first line must begin with '#!', for example #!/bin/bash."
            )
        if MARKS.intersection(script) or len(script) > MAX_SCRIPT:
            raise TemplateProblem(f"Template {name}: the script is too long or holds control characters.")
        return script

    def check(self, dialect_name: str, context: JobContext = SAMPLE) -> str:
        """Render a sample, and look for unknown variables in branches that the sample does not take. Returns the sample's script."""
        script = self.render(dialect_name, context)
        variables = context.variables(dialect_name)
        for name in self._environment.list_templates():
            if not name.startswith("batchhub/") and name in {"base.sh.j2", "container.sh.j2", f"{dialect_name}.sh.j2"}:
                self._check_names(name, variables)
        return script

    def _check_names(self, name: str, variables: Mapping[str, object]) -> None:
        loader = self._environment.loader
        assert loader is not None
        tree = self._environment.parse(loader.get_source(self._environment, name)[0])
        for node in unknown_names(self._environment, tree, variables):
            raise TemplateProblem(self._unknown(name, node.lineno, node.name, variables))

    def _problem(self, name: str, error: Exception, variables: Mapping[str, object]) -> TemplateProblem:
        if isinstance(error, RecursionError):
            return TemplateProblem(f"Template {name}: templates extend or include each other in a circle.")
        if isinstance(error, jinja2.TemplateNotFound):
            return TemplateProblem(
                f"Template {name}: there is no template {error.name!r}; known dialects are {', '.join(DIALECTS)}, ours are under 'batchhub/'."
            )
        if isinstance(error, jinja2.TemplateSyntaxError):
            return TemplateProblem(f"Template {error.name or name}, line {error.lineno}: {error.message}.")
        where, line = self._where(name, error)
        if isinstance(error, jinja2.UndefinedError):
            found = UNDEFINED.search(str(error))
            if found and found[1]:
                return TemplateProblem(self._unknown(where, line, found[1], variables))
            if found:
                options = variables["options"]
                known = list(options) if isinstance(options, Options) else []
                return TemplateProblem(
                    f"Template {where}, line {line}: there is no option {found[2]!r}{hint(found[2], known)}."
                )
        text = str(error).rstrip(".")
        return TemplateProblem(
            text + "." if text.startswith("Template ") else f"Template {where}, line {line}: {text}."
        )

    @staticmethod
    def _unknown(template: str, line: int, variable: str, variables: Mapping[str, object]) -> str:
        return f"Template {template}, line {line}: the variable {variable!r} is not known{hint(variable, list(variables))}."

    @staticmethod
    def _where(name: str, error: Exception) -> tuple[str, int]:
        """The template and line of an error, from the traceback that Jinja writes in the template's own lines."""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename.endswith(".j2"):
                return Path(frame.filename).name, frame.lineno or 0
        return name, 0


def check_value(field: str, value: str) -> None:
    """Raise BadInput naming the field if a form's value could not stand in any script."""
    if CONTROL.search(value):
        raise BadInput(f"{field[:80]}: {value[:60]!r} holds a control character.")
