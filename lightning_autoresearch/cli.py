"""The command line.  Nothing heavy is imported before a command needs it: `--help` and `check` answer at once.

Exit codes: 0 done, 1 the study failed, 2 the user's input is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lightning_autoresearch.spec import Spec
    from lightning_autoresearch.study import Study
    from lightning_autoresearch.summary import StudySummary

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

EPILOG = """\
first steps:
  lightning-autoresearch init quickstart     copy a recipe and its spec into this folder
  lightning-autoresearch check quickstart.yaml
  lightning-autoresearch fit quickstart.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        from lightning_autoresearch.errors import InputError, ResearchError, StudyLocked

        if not isinstance(error, ResearchError):
            raise
        print(error, file=sys.stderr)
        return WRONG_INPUT if isinstance(error, (InputError, StudyLocked)) else FAILED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="lightning-autoresearch",
        description="Research on model training that can be believed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    fit = _command(commands, "fit", _fit, "run a study, or go on with it")
    _add_spec(fit)
    fit.add_argument("--study", metavar="DIR", help="folder of the study (default: studies/<name> below this folder)")
    fit.add_argument("--plain", action="store_true", help="plain log lines instead of the live view")

    check = _command(commands, "check", _check, "name every fault of a spec, without running it")
    _add_spec(check)
    check.add_argument(
        "--deep",
        action="store_true",
        help="also build model, data and trainer, run two steps at every scale, and ask the language model once",
    )

    status = _command(commands, "status", _status, "show a study, running or not")
    _add_study(status)
    status.add_argument("--json", action="store_true", help="print one JSON object instead of a table")

    report = _command(commands, "report", _report, "write the HTML report of a study")
    _add_study(report)
    report.add_argument(
        "--output", metavar="FILE", help="where to write it (default: report.html in the study's folder)"
    )

    export = _command(commands, "export", _export, "write a study's proposals and their outcomes as training data")
    _add_study(export)
    export.add_argument("--format", choices=["chat-jsonl"], default="chat-jsonl", help="one chat per line of JSON")
    export.add_argument("--output", metavar="FILE", help="where to write it (default: to standard output)")
    export.add_argument("--only", choices=["keeps"], help="only proposals of which something was kept")
    export.add_argument(
        "--messages-only", action="store_true", help="nothing but the messages, for trainers that refuse other keys"
    )

    adopt = _command(commands, "adopt", _adopt, "put the confirmed revision in the place of your spec")
    _add_study(adopt)
    adopt.add_argument("--to", metavar="FILE", help="the spec to replace (default: the one that the study began with)")

    _add_init(_command(commands, "init", _init, "copy a recipe and its spec into a folder of yours"))
    _command(commands, "schema", _schema, "print the JSON Schema of a spec, for an editor")
    return parser


def _add_init(init: argparse.ArgumentParser) -> None:
    init.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="name of the recipe; without it the recipes are listed"
    )
    init.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where to (default: this folder)")
    init.add_argument("--from", dest="config", metavar="CONFIG", help="write a first spec for this LightningCLI config")
    init.add_argument(
        "--from-sweep", dest="sweep", metavar="SWEEP", help="with --from: the search space of a W&B sweep"
    )
    init.add_argument("--cli", metavar="MODULE:NAME", help="with --from: what makes the project's own LightningCLI")
    init.add_argument(
        "--output", default="spec.yaml", metavar="FILE", help="with --from: where to (default: spec.yaml)"
    )


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from lightning_autoresearch import __version__

        print(__version__)
        parser.exit()


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="the spec, a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a value of the spec for this call, for example budget.trials=40; may be repeated",
    )


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="DIR", help="folder of the study, for example studies/quickstart")


def _load(arguments: argparse.Namespace) -> Spec:
    from lightning_autoresearch.spec import load_spec

    return load_spec(arguments.spec, overrides=arguments.set)


# -- fit ---------------------------------------------------------------------------------------------------------------


def _fit(arguments: argparse.Namespace) -> int:
    import shlex

    from lightning_autoresearch.fold import Watcher
    from lightning_autoresearch.study import Study
    from lightning_autoresearch.view import closing_text, say, view_for

    spec = _load(arguments)
    study = Study(spec, folder=arguments.study, command=shlex.join(["lightning-autoresearch", *sys.argv[1:]]))
    with view_for(sys.stdout, plain=arguments.plain) as view:
        watcher = Watcher(view.update, folder=study.folder, interval_seconds=view.interval_seconds)
        study.listen(watcher)
        _stop_on_signals(study)
        summary = study.run()
        watcher.flush()
    say(closing_text(summary))
    return _exit_code(summary)


def _exit_code(summary: StudySummary) -> int:
    return {"failed": FAILED, "interrupted": INTERRUPTED}.get(summary.phase, DONE)


def _stop_on_signals(study: Study) -> None:
    """First Ctrl-C (or SIGTERM): stop after a clean write; second: at once."""
    import signal

    def handle(signum: int, _: object) -> None:
        signal.signal(signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler)
        study.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


# -- check -------------------------------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    spec = _load(arguments)
    for note in (*spec.notes, *_scientist_notes(spec)):
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{arguments.spec}: a valid spec: {len(spec.search_space)} keys to search, "
        f"scales {' -> '.join(scale.name for scale in spec.scales)}, {spec.budget.trials} trials"
    )
    if not arguments.deep:
        return DONE
    from lightning_autoresearch.deep_check import check_deeply

    faults = 0
    for line, good in check_deeply(spec):
        print(line, file=sys.stdout if good else sys.stderr, flush=True)
        faults += not good
    return WRONG_INPUT if faults else DONE


def _scientist_notes(spec: Spec) -> list[str]:
    """Why the spec's scientist could not be asked from here: no fault of the spec, but `fit` would refuse."""
    if spec.scientist is None:
        return []
    from lightning_autoresearch.literature import read_library
    from lightning_autoresearch.scientist import settings_fault

    library = read_library(spec.scientist.literature, folder=spec.path.resolve().parent)
    return list(filter(None, [settings_fault(spec, environ=os.environ), *library.notes]))


# -- status, report, adopt ---------------------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> int:
    from lightning_autoresearch.fold import summarize

    summary = summarize(_study_folder(arguments))
    if arguments.json:
        import json

        from lightning_autoresearch.status import status_json

        print(json.dumps(status_json(summary), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        from lightning_autoresearch.view import render, say

        say(render(summary, width=Console().width))
    return DONE


def _report(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from lightning_autoresearch.fold import summarize
    from lightning_autoresearch.report import write_report

    folder = _study_folder(arguments)
    path = Path(arguments.output) if arguments.output else folder / "report.html"
    write_report(summarize(folder), path)
    print(path)
    return DONE


def _export(arguments: argparse.Namespace) -> int:
    from lightning_autoresearch.export import chat_lines
    from lightning_autoresearch.journal import read_journal

    entries = read_journal(_study_folder(arguments))
    lines = list(chat_lines(entries, only_keeps=arguments.only == "keeps", messages_only=arguments.messages_only))
    text = "".join(f"{line}\n" for line in lines)
    if not lines:
        kept = " that was kept" if arguments.only else ""
        print(f"nothing to export: the study has no tested hypothesis of a language model{kept}", file=sys.stderr)
        return DONE
    if arguments.output:
        from pathlib import Path

        from lightning_autoresearch.errors import InputError

        try:
            Path(arguments.output).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{arguments.output}: cannot be written ({error.strerror})") from None
        print(arguments.output)
        print(f"{len(lines)} example{'s' if len(lines) > 1 else ''}", file=sys.stderr)
    else:
        sys.stdout.write(text)
    return DONE


def _adopt(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from lightning_autoresearch.adopt import adopt

    print(adopt(_study_folder(arguments), to=Path(arguments.to) if arguments.to else None))
    return DONE


def _study_folder(arguments: argparse.Namespace) -> Path:
    from pathlib import Path

    from lightning_autoresearch.errors import InputError
    from lightning_autoresearch.journal import FILE_NAME

    folder = Path(arguments.study)
    if not (folder / FILE_NAME).is_file():
        raise InputError(
            f"{folder}: there is no study here; name the folder that `fit` wrote, for example studies/quickstart"
        )
    return folder


# -- init, schema ------------------------------------------------------------------------------------------------------


def _init(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    if arguments.config:
        return _init_from(arguments)
    from lightning_autoresearch.errors import InputError
    from lightning_autoresearch.init import copy_recipe, recipe_names

    if arguments.sweep or arguments.cli:
        raise InputError("--from-sweep and --cli say more about a config: name it with --from CONFIG")
    if arguments.recipe is None:
        print("\n".join(recipe_names()))
        return DONE
    for path in copy_recipe(arguments.recipe, Path(arguments.folder)):
        print(path)
    return DONE


def _init_from(arguments: argparse.Namespace) -> int:
    """Write a first spec for the config of an existing project."""
    from pathlib import Path

    from lightning_autoresearch.deep_check import probe
    from lightning_autoresearch.document import parse
    from lightning_autoresearch.draft import draft_for
    from lightning_autoresearch.errors import InputError
    from lightning_autoresearch.source import read_text

    target = Path(arguments.output)
    if target.exists():
        raise InputError(f"{target} is there already; name another file with --output")
    sweep = parse(read_text(Path(arguments.sweep)), file=arguments.sweep).data if arguments.sweep else None
    text, fault = draft_for(Path(arguments.config), folder=target.parent, cli=arguments.cli, probe=probe, sweep=sweep)
    target.write_text(text, encoding="utf-8")
    print(target)
    if fault:
        print(
            f"note: the objective is a guess, because two steps of the task did not end well: {fault}", file=sys.stderr
        )
    print(f"read it, change what is wrong, then: lightning-autoresearch check --deep {target}", file=sys.stderr)
    return DONE


def _schema(_: argparse.Namespace) -> int:
    from lightning_autoresearch.spec import schema_text

    print(schema_text(), end="")
    return DONE
