"""The three commands: parsing, progress, exit codes, nothing else.

Exit codes: 0 done, 1 findings, 2 wrong usage or something that the user can fix, 130 interrupted, 143 stopped by
SIGTERM after saving.
What is heavy is imported by the command that needs it, so that `--help` and a hook are instant.
"""

from __future__ import annotations

import signal
import sys

INTERRUPT = signal.getsignal(signal.SIGINT)
if sys.argv[0].rpartition("/")[2].startswith("phi3v-"):  # this is the program, not a module of another one
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the imports below take their time: no traceback

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, fields
from inspect import getdoc
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import click

from phi3v.schema.errors import UserError, require
from phi3v.schema.tokens import MAX_CROPS

FINDINGS, UNUSABLE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 130, 141, 143
SECONDS_BETWEEN_LINES = 5.0
EVALUATING = ("torch", "transformers", "accelerate", "rapidfuzz")
CLASSES_SHOWN = 8  # of a split, in a summary

# --out-dir is taken for --out_dir.
SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
    "token_normalize_func": lambda name: name.replace("-", "_"),
}


def data_main() -> NoReturn:
    """Run `phi3v-data`."""
    _run(data)


def train_main() -> NoReturn:
    """Run `phi3v-train`."""
    _run(train_command())


def model_main() -> NoReturn:
    """Run `phi3v-model`."""
    _run(model)


def _run(command: click.Command) -> NoReturn:
    signal.signal(signal.SIGINT, INTERRUPT)
    try:
        code = command.main(standalone_mode=False)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        code = UNUSABLE
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        code = BROKEN_PIPE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo(f"error: {error.strerror}\n  fix: free some space where the output goes", err=True)
        code = UNUSABLE
    sys.exit(code if isinstance(code, int) else 0)


# ------------------------------------------------------------------------------------------ options from dataclasses


def options_of(settings: type) -> list[click.Option]:
    """Return a dataclass's `Annotated[type, "help"]` fields as options of the same names."""
    hints = get_type_hints(settings, include_extras=True)
    described = [field for field in fields(settings) if field.init and get_origin(hints[field.name]) is Annotated]
    return [_option(field, *get_args(hints[field.name])) for field in described]


def _option(field: Field[Any], kind: Any, text: str) -> click.Option:
    required = field.default is MISSING
    if get_origin(kind) is UnionType:
        kind = next(part for part in get_args(kind) if part is not type(None))
    name = f"--{field.name.removesuffix('_')}"  # from_: Python's word is taken
    if kind is bool:
        names = f"{name}/--no_{field.name}" if field.default else name
        return click.Option([names], is_flag=True, default=field.default, help=text, show_default=bool(field.default))
    if get_origin(kind) is tuple:
        return click.Option([name, field.name], multiple=True, default=field.default, help=f"{text} May be repeated.")
    types: dict[Any, Any] = {Path: click.Path(path_type=Path)}
    param = click.Choice(get_args(kind)) if get_origin(kind) is Literal else types.get(kind, kind)
    if required:  # without a default of None, which click would take for a value
        return click.Option([name, field.name], type=param, required=True, help=text)
    return click.Option(
        [name, field.name], type=param, default=field.default, help=text, show_default=field.default is not None
    )


# ------------------------------------------------------------------------------------------------------------ progress


class Progress:
    """Shows how far work has come: a bar on a terminal, else a line every few seconds; nothing once it is done.

    It starts with the first count and starts anew when a count falls, so that others can print in between.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._done = 0
        self._from = (0, 0.0)
        self._last = 0.0
        self._bar: Any = None

    def show(self, done: int, total: int | None = None, *, failed: int = 0) -> None:
        """Say that `done` are done, of `total` if it is known, and how many of them failed."""
        if self._done == 0 or done < self._done:
            self._start(done, total)
        self._done = done
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, state=self._state(total, failed))
        elif time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            of = f" of {total}" if total else ""
            click.echo(f"{self._what}: {done}{of}, {self._state(total, failed)}", err=True)
        if done == total:
            self.stop()

    def _state(self, total: int | None, failed: int) -> str:
        """Return the pace since the first count, the time left, and the failures."""
        first, start = self._from
        rate = (self._done - first) / max(time.monotonic() - start, 1e-9)
        parts = [f"{rate:.1f}/s"]
        if total and rate:
            minutes, seconds = divmod(round((total - self._done) / rate), 60)
            parts.append(f"{minutes}:{seconds:02} left")
        return ", ".join([*parts, *([f"{failed} failed"] if failed else [])])

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
        self._bar, self._done = None, 0

    def _start(self, done: int, total: int | None) -> None:
        self._last = time.monotonic()
        self._from = (done, self._last)
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
        )
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task(self._what, total=total, completed=done, state="")
        self._bar.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


# ---------------------------------------------------------------------------------------------------------- phi3v-data


@click.group(context_settings=SETTINGS)
@click.version_option(package_name="phi3v")
def data() -> None:
    """Turn published data into one JSONL of conversations, and prove that it is right.

    \b
    Examples:
      phi3v-data convert ucf101 --src_dir UCF-101 --out_dir data
      phi3v-data validate data
    """


class Converters(click.Group):
    """One command a converter, made from its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the converters' names."""
        from phi3v.converters.registry import names

        return names()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the converters; one that cannot be imported says so, and harms no other."""
        from phi3v.converters.registry import summary

        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name)) for name in self.list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002  # click's signature
        """Return the command of a converter."""
        from phi3v.converters import Run
        from phi3v.converters.registry import converter

        module = converter(cmd_name)
        example = getattr(module, "EXAMPLE", "--src_dir DIR")
        out_dir = click.Option(
            ["--out_dir"], type=click.Path(path_type=Path), required=True, help="Where the records and images/ go."
        )
        how = options_of(Run)
        for option in how:
            if option.name == "jobs":  # of the command; a library starts no process that nobody asked for
                option.default = len(os.sched_getaffinity(0))

        def run(out_dir: Path, **options: Any) -> None:
            settings = Run(**{field.name: options.pop(field.name) for field in fields(Run)})
            _convert(cmd_name, module.Options(**options), out_dir, settings)

        return click.Command(
            cmd_name,
            callback=run,
            params=[out_dir, *options_of(module.Options), *how],
            help="\b\n" + (getdoc(module) or "").replace("\n\n", "\n\n\b\n"),  # \\b: keep the lines as they are
            short_help=module.SUMMARY,
            epilog=f"\b\nExample:\n  phi3v-data convert {cmd_name} {example} --out_dir data",
        )


@data.command(cls=Converters)
def convert() -> None:
    """Convert a data set to <out_dir>/<name>_{train,val,test}.jsonl and <out_dir>/images/.

    A run that was stopped goes on with the same command.
    """


def _convert(name: str, options: Any, out_dir: Path, run: Any) -> None:
    from phi3v.converters import Planned, Rejected
    from phi3v.converters import convert as events
    from phi3v.converters.manifest import read_manifest

    done, failed, total = 0, 0, None
    with Progress(f"converting {name}") as progress:
        for event in events(name, options, out_dir=out_dir, run=run):
            if isinstance(event, Planned):
                done, total = event.kept, event.total
                if done:
                    click.echo(f"going on after {done} items of an earlier run", err=True)
                continue
            done += 1
            failed += isinstance(event, Rejected)
            progress.show(done, total, failed=failed)
    for line in _summary(name, out_dir, read_manifest(out_dir)):
        click.echo(line)


def _summary(name: str, out_dir: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Yield what a conversion left, by split and class, and where to look next."""
    for split, count in manifest["records"].items():
        classes = manifest["classes"].get(split, {})
        shown = ", ".join(f"{label} {number}" for label, number in list(classes.items())[:CLASSES_SHOWN])
        more = f" and {len(classes) - CLASSES_SHOWN} more" if len(classes) > CLASSES_SHOWN else ""
        yield f"{out_dir / f'{name}_{split}.jsonl'}: {count} record{'s' * (count != 1)}" + (
            f" ({shown}{more})" if classes else ""
        )
    if rejected := manifest["rejected"]["count"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in manifest["rejected"]["reasons"].items())
        yield f"rejected: {rejected} ({reasons}); why: {out_dir / 'rejected.jsonl'}; once mended: --retry_failed"
    if notes := manifest["notes"]:
        yield f"noted: {len(notes)}, such as {notes[0]['source']}: {notes[0]['note']}; all: {out_dir / 'manifest.json'}"
    for part in manifest.get("fetched", ()):
        yield f"fetched: {part['pattern']} of {part['repo']} at {part['revision']}, {part['bytes']:,} bytes"
    if manifest.get("fetched"):
        differences = "; ".join(manifest["recipe"]["differences"])
        yield f"the recipe's data: {f'no ({differences})' if differences else 'yes'}"
    yield f"check it with: phi3v-data validate {out_dir}"


@data.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(folder: Path) -> None:
    """Check that a converted folder still holds what its manifest says.

    Reads every file. Exits with 1 if one is changed, missing or extra.

    \b
    Example:
      phi3v-data verify data
    """
    from phi3v.converters.manifest import verify as differences

    count = 0
    for difference in differences(folder):
        click.echo(f"{difference.state}: {folder / difference.name}")
        count += 1
    if count:
        click.echo(f"{count} files are not as {folder / 'manifest.json'} has them", err=True)
        raise click.exceptions.Exit(FINDINGS)
    click.echo("all files are as written", err=True)


def _validate_command() -> click.Command:
    from phi3v.schema.options import Options

    text = """Check JSONL files: syntax, schema, rules of the model, unique ids, images.

    A folder stands for its *.jsonl files, which are checked together: ids, and what splits must not share. Exits with 1
    if there is an error. What a code means: phi3v-data explain CODE.

    \b
    Examples:
      phi3v-data validate data
      phi3v-data validate --images full --jobs 4 data
      phi3v-data validate --max_length 4096 --num_crops 4 --tokenizer MODEL_DIR data
      phi3v-data validate --format sarif --output findings.sarif train.jsonl
    """
    files = click.Argument(
        ["paths"], nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR ..."
    )
    params = [files, *options_of(Options)]
    return click.Command("validate", callback=_validate, params=params, help=text)


def _validate(paths: Sequence[Path], **options: Any) -> None:
    from phi3v.schema.options import Options
    from phi3v.schema.report import report
    from phi3v.schema.validate import Validation

    settings = Options(**options)
    with Progress("checking") as progress:
        validation = Validation(paths, settings, progress.show)
        parts = report(validation.findings(), settings.format)
        if settings.output:
            _write(settings.output, parts)
        else:
            for part in parts:
                click.echo(part, nl=False)
    for line in validation.split_files() if settings.quarantine else ():
        click.echo(line, err=True)
    for line in validation.statistics() if settings.statistics else ():
        click.echo(line, err=True)
    click.echo(validation.summary(), err=True)
    if validation.failed:
        raise click.exceptions.Exit(FINDINGS)


def _check_writable(path: Path) -> None:
    if not os.access(path.absolute().parent, os.W_OK):
        raise UserError("cannot write here", where=path.absolute().parent, fix="choose another --output")


def _write(path: Path, parts: Iterable[str]) -> None:
    from phi3v.schema.jsonl import atomic_write

    _check_writable(path)
    with atomic_write(path) as file:
        file.writelines(part.encode() for part in parts)


data.add_command(_validate_command())


@data.command()
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="All codes, as docs/codes.md has them.")
def explain(code: str | None, *, everything: bool) -> None:
    """Say what a code of a finding means, why it matters, and how to mend it.

    \b
    Example:
      phi3v-data explain image-tag
    """
    from phi3v.schema.findings import codes_page
    from phi3v.schema.findings import explain as words

    if code is None and not everything:
        raise click.UsageError("name a code, or give --all")
    click.echo(words(code) if code else codes_page(), nl=False)


@data.command()
def schema() -> None:
    """Print the JSON Schema of a record."""
    from phi3v.schema.contract import schema_text

    click.echo(schema_text(), nl=False)


# --------------------------------------------------------------------------------------------------------- phi3v-train


def train_command() -> click.Command:
    """Return `phi3v-train`, its options read from the configuration."""
    from phi3v.trainer.config import TrainConfig

    text = """Fine-tune Phi-3-vision or Phi-3.5-vision on a converted folder.

    Scores the model before and after on *_val.jsonl, and saves it with its processor. Every field of
    transformers.TrainingArguments is an option, too: --lr_scheduler_type cosine --report_to tensorboard ...

    \b
    Examples:
      phi3v-train --data_dir data --output_dir run --use_lora --bf16
      phi3v-train --data_dir data --output_dir run --model_name_or_path tiny   # no GPU, no download
      phi3v-train --data_dir data --show 3                                     # what is learned from a sample
      phi3v-train --data_dir data --dry_run --gpus 8 --gpu_memory 80           # steps and memory, before anything
      phi3v-train --config run/train_config.json --resume auto                 # go on where it was killed
      phi3v-train --data_dir data --output_dir run --nproc 8                   # one process a GPU; auto without it
      torchrun --nnodes 2 --nproc_per_node 8 ... -m phi3v.trainer --data_dir data --output_dir run
    """
    params: list[click.Parameter] = [
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Settings as YAML or JSON, by the names of the options; options given beside it win.",
            callback=_read_settings,
            expose_value=False,
            is_eager=True,
        ),
        click.Option(
            ["--list_presets"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_list_presets,
            help="List the presets with the scores that the recipe published, and stop.",
        ),
        click.Option(["--show"], type=click.IntRange(min=1), metavar="N", help="Show N samples as learned, and stop."),
        *options_of(TrainConfig),
    ]
    preset = next(param for param in params if param.name == "preset")
    preset.is_eager, preset.callback = True, _read_preset
    settings = SETTINGS | {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(
        "phi3v-train", callback=click.pass_context(_train), params=params, help=text, context_settings=settings
    )


def _read_settings(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Make a file's settings the defaults of the options; those that are none of ours are kept for the Trainer."""
    if value is None:
        return
    from phi3v.trainer.config import read_settings

    ours = {option.name for option in ctx.command.params}
    found = read_settings(value)
    ctx.meta["file"] = {name: setting for name, setting in found.items() if name in ours}
    _read_preset(ctx, param, ctx.meta["file"].get("preset"))
    ctx.obj = {name: text for name, text in found.items() if name not in ours}


def _read_preset(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001
    """Make a preset's settings the defaults of the options, below those of a file."""
    from phi3v.trainer.presets import named

    if value is not None:
        ctx.meta["preset"] = named(value).settings
    ctx.default_map = {**ctx.meta.get("preset", {}), **ctx.meta.get("file", {})}
    return value


def _list_presets(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001, FBT001
    if not value:
        return
    from phi3v.trainer.presets import table

    rows = list(table())
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    ctx.exit()


def _without_preset_precision(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with a preset's precision left out where another one is asked for."""
    source = click.core.ParameterSource.COMMANDLINE
    from phi3v.trainer.config import KINDS

    asked = [kind for kind in KINDS if options[kind] and ctx.get_parameter_source(kind) is source]
    return options | {kind: kind in asked for kind in KINDS} if asked else options


def _more(ctx: click.Context) -> dict[str, str]:
    """Return the options that are none of ours: `--name value ...`, `--name=value`, `--name` alone for true."""
    more: dict[str, str] = dict(ctx.obj or {})
    name = ""
    for word in ctx.args:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            more[name] = value if equals else ""
        elif name:
            more[name] = f"{more[name]} {word}".strip()
        else:
            raise click.UsageError(f"{word!r} belongs to no option")
    return more


def _train(ctx: click.Context, show: int | None, **options: Any) -> None:
    from phi3v.trainer.config import TrainConfig

    config = TrainConfig(**_without_preset_precision(ctx, options), more=_more(ctx))
    require("train", *EVALUATING, "matplotlib", *(["peft"] if config.adapters else []))
    if show or config.dry_run:
        _show(config, show) if show else _dry_run(config)
        return
    _start_processes(config.nproc)
    from phi3v.trainer.events import Answered, Measured, Note, Scored, Stopped
    from phi3v.trainer.run import train

    scores: dict[str, float] = {}
    with Progress("measuring") as measuring, Progress("answering") as answering:
        for event in train(config):
            match event:
                case Note(text):
                    click.echo(text, err=True)
                case Measured(done, total):
                    measuring.show(done, total)
                case Answered(done, total):
                    answering.show(done, total)
                case Scored(when, found, unread=unread):
                    _tell_unread(unread)
                    for score in found:
                        scores.setdefault(when, score.value)  # the first counts
                        click.echo(_score_line(score, when))
                case Stopped(checkpoint):
                    click.echo(f"stopped as asked, saved {checkpoint}; go on with --resume auto", err=True)
                    raise click.exceptions.Exit(TERMINATED)
    if scores.keys() == {"before", "after"}:
        click.echo(f"{scores['before']:.4f} -> {scores['after']:.4f}, details in {config.output_dir}/report.html")


def _start_processes(nproc: str) -> None:
    """Have several processes do what this one was asked for, and exit as they do; nothing where one is enough."""
    from phi3v.trainer import launch

    launch.meet_anew()
    if (count := launch.count(nproc)) > 1:
        raise click.exceptions.Exit(launch.launch(count, sys.argv[1:]))


def _dry_run(config: Any) -> None:
    """Print what the run will be."""
    from phi3v.trainer.events import Measured
    from phi3v.trainer.forecast import forecast, lines

    events = forecast(config)
    with Progress("measuring") as progress:
        while True:
            try:
                event = next(events)
            except StopIteration as done:
                known = done.value
                break
            if isinstance(event, Measured):
                progress.show(event.done, event.total)
    for line in lines(known):
        click.echo(line)


def _score_line(score: Any, when: str = "") -> str:
    """Return a score with its interval: `accuracy before: 0.2500 on 24 samples (95 %: 0.0833 to 0.4167)`."""
    what = f"{score.metric} {when}".strip()
    return f"{what}: {score.value:.4f} on {score.count} samples (95 %: {score.low:.4f} to {score.high:.4f})"


def _show(config: Any, count: int) -> None:
    """Print samples as they are learned: green and [[ ]] counts in the loss, the rest does not."""
    from phi3v.trainer.show import samples

    styles: dict[str, dict[str, Any]] = {"learned": {"fg": "green", "bold": True}, "read": {}, "image": {"fg": "cyan"}}
    for shown in samples(config, count):
        if shown.skipped:
            click.secho(f"--- {shown.id}: skipped, {shown.skipped}", fg="red")
            continue
        tokens = {kind: sum(span.tokens for span in shown.spans if span.kind == kind) for kind in styles}
        told = ", ".join(f"{tokens[kind]} {kind}" for kind in styles)
        click.secho(f"--- {shown.id}: {sum(tokens.values())} tokens ({told}), num_crops {shown.num_crops}", dim=True)
        for span in shown.spans:
            text = {"learned": f"[[{span.text}]]", "image": f"[{span.text} x {span.tokens}]"}.get(span.kind, span.text)
            click.secho(text, nl=False, **styles[span.kind])
        click.echo()


# --------------------------------------------------------------------------------------------------------- phi3v-model


@click.group(context_settings=SETTINGS)
@click.version_option(package_name="phi3v")
def model() -> None:
    """Use a trained or released model.

    \b
    Examples:
      phi3v-model predict --model run --image a.jpg --image b.jpg "What differs?"
      phi3v-model evaluate --model run --data data/ucf101_test.jsonl
    """


_MODEL = click.option("--model", "name", required=True, help="A folder, an adapter's folder, a hub id, or 'tiny'.")
_OUT = click.option(
    "--out_dir", type=click.Path(path_type=Path), required=True, help="The new folder; it appears when it is whole."
)
_SHARD = click.option("--max_shard_size", default="5GB", show_default=True, help="Of a file of weights.")
_LENGTH = click.option(
    "--max_new_tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Longest answer."
)


_DATA: dict[str, Any] = {"type": click.Path(exists=True, dir_okay=False, path_type=Path), "help": "A JSONL file."}
_OUTPUT: dict[str, Any] = {"type": click.Path(dir_okay=False, path_type=Path)}
_BATCH = click.option(
    "--batch_size",
    type=click.IntRange(min=1),
    help="Records at a time.  [default: as many as have 20,480 tokens together]",
)
_CROPS = click.option(
    "--num_crops",
    type=click.IntRange(1, MAX_CROPS),
    help="Most crops of an image.  [default: as the model was trained; 16, or 4 of several images]",
)
_ON_ERROR = click.option(
    "--on_error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do with a picture of --data that cannot be read.",
)
_LIMIT = click.option(
    "--eval_limit", type=click.IntRange(min=1), help="So many records at most, drawn by a fixed seed."
)


@model.command()
@_MODEL
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="A picture; may be given again.",
)
@click.option("--data", "path", **_DATA)
@click.option("--output", help="With --data: where the answers go, instead of to the terminal.", **_OUTPUT)
@_BATCH
@_LIMIT
@_LENGTH
@_CROPS
@_ON_ERROR
@click.argument("question", required=False)
def predict(
    name: str, images: Sequence[str], path: Path | None, output: Path | None, question: str | None, **options: Any
) -> None:
    """Answer one question about pictures, or the last turn of each record of a file.

    \b
    Examples:
      phi3v-model predict --model run --image a.jpg --image b.jpg "What differs?"
      phi3v-model predict --model run --data questions.jsonl --output answers.jsonl
    """
    if (question is None) == (path is None) or (path and images):
        raise click.UsageError("give a question, with --image where it is about pictures; or --data alone")
    require("train", *EVALUATING)
    from phi3v.trainer.answer import answer
    from phi3v.trainer.machine import is_first_process
    from phi3v.trainer.predictions import as_fields, write_evaluation

    if question is not None:
        for piece in answer(name, question, images, **{own: options[own] for own in ("max_new_tokens", "num_crops")}):
            click.echo(piece, nl=False)
        click.echo()
        return
    found = _answers(name, path, output, scored=False, **options)
    if not is_first_process():
        return
    if output:
        write_evaluation(found.predictions, None, answers=output)
    else:
        for prediction in found.predictions:
            click.echo(json.dumps(as_fields(prediction, None), ensure_ascii=False))
    _tell_unread(sum(own.error is not None for own in found.predictions))


@model.command()
@_MODEL
@click.option("--data", "path", required=True, **_DATA)
@click.option("--output", help="Where scores and answers go, as JSON; predictions_NAME.jsonl beside it.", **_OUTPUT)
@click.option("--metric", help="Metrics, comma-separated. [default: by the data's source]")
@click.option("--positive_answer", help="The answer that auroc is about. [default: Yes for hateful_memes]")
@_BATCH
@_LIMIT
@_LENGTH
@_CROPS
@_ON_ERROR
def evaluate(name: str, path: Path, output: Path | None, metric: str | None, **options: Any) -> None:
    """Score a model on a labelled JSONL file; with --output an interrupted evaluation goes on by the same command.

    \b
    Example:
      phi3v-model evaluate --model run --data data/ucf101_test.jsonl --output scores.json
    """
    require("train", *EVALUATING)
    from phi3v.trainer.config import metric_names
    from phi3v.trainer.machine import is_first_process
    from phi3v.trainer.predictions import write_evaluation
    from phi3v.trainer.scoring import scores

    beside = output.with_name(f"predictions_{output.stem}.jsonl") if output else None
    found = _answers(name, path, beside, scored=True, metrics=metric_names(metric), **options)
    if not is_first_process():
        return
    if output and beside:
        write_evaluation(found.predictions, found.metrics, answers=beside, scores=output)
    for line in found.metrics.left_out:
        click.echo(line, err=True)
    for score in scores(found.predictions, found.metrics):
        click.echo(_score_line(score))
    _tell_unread(sum(own.error is not None for own in found.predictions))


def _tell_unread(count: int) -> None:
    if count:
        click.echo(f"{count} records were not asked: an image cannot be read; see 'error' in the predictions", err=True)


def _answers(name: str, path: Path | None, output: Path | None, *, eval_limit: int | None, **wish: Any) -> Any:
    """Return a model's answers to the records of a file, showing how far it is."""
    from phi3v.trainer.answer import Wish, answer_file

    if output:
        _check_writable(output)
    assert path is not None
    answering = answer_file(name, path, Wish(journal=output, limit=eval_limit, **wish))
    with Progress("answering") as progress:
        while True:
            try:
                event = next(answering)
            except StopIteration as end:
                return end.value
            progress.show(event.done, event.total)


@model.command()
@click.argument("name", metavar="MODEL")
@click.option(
    "--against_remote",
    is_flag=True,
    help="Compare with the original code, which is downloaded and run; takes twice the memory.",
)
def selfcheck(name: str, *, against_remote: bool) -> None:
    """Check a model's weights, its loss on a picture, and where it stops.

    Exits with 1 if something is wrong.

    \b
    Example:
      phi3v-model selfcheck microsoft/Phi-3.5-vision-instruct
    """
    require("train", "torch", "transformers")
    from phi3v.trainer.selfcheck import selfcheck as checks

    wrong = 0
    for check in checks(name, against_remote=against_remote):
        wrong += not check.good
        click.echo(f"{'ok   ' if check.good else 'WRONG'} {check.what}: {check.detail}")
    if wrong:
        raise click.exceptions.Exit(FINDINGS)


@model.command()
@click.argument("name", metavar="ADAPTER")
@_OUT
@_SHARD
def merge(name: str, out_dir: Path, max_shard_size: str) -> None:
    """Merge an adapter into its base model, on the CPU.

    \b
    Example:
      phi3v-model merge run --out_dir whole
    """
    require("train", "torch", "transformers", "peft")
    from phi3v.trainer.load import is_adapter

    if not is_adapter(name):
        raise UserError("is no adapter", where=name, fix="name the folder of a run with --use_lora or --use_qlora")
    _export(name, out_dir, max_shard_size)


@model.command()
@click.argument("name", metavar="MODEL")
@_OUT
@click.option("--with_remote_code", is_flag=True, help="Name the original code in the files, for servers that run it.")
@click.option("--code_repo", help="Its repository on the hub. [default: microsoft/Phi-3.5-vision-instruct]")
@click.option("--code_revision", help="Its commit. [default: the last one of that repository]")
@_SHARD
def export(
    name: str,
    out_dir: Path,
    code_repo: str | None,
    code_revision: str | None,
    max_shard_size: str,
    *,
    with_remote_code: bool,
) -> None:
    """Write a whole model in the released layout; an adapter is merged into its base.

    \b
    Examples:
      phi3v-model export run --out_dir whole
      phi3v-model export run --out_dir whole --with_remote_code
    """
    require("train", "torch", "transformers")
    from phi3v.trainer.export import RemoteCode

    if bool(code_repo) != bool(code_revision):
        raise UserError("--code_repo and --code_revision go together", fix="give both, or neither")
    given = RemoteCode(code_repo, code_revision) if code_repo and code_revision else RemoteCode()
    code = given if with_remote_code or code_repo else None
    _export(name, out_dir, max_shard_size, code)
    if code:
        click.echo(f"load it with trust_remote_code=True, code_revision={code.revision}")


def _export(name: str, out_dir: Path, max_shard_size: str, code: Any = None) -> None:
    from phi3v.trainer.export import export as write

    for file, size in write(name, out_dir, remote_code=code, max_shard_size=max_shard_size).items():
        click.echo(f"{size:>14,} {out_dir / file}")
