from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lightning_autoresearch.classes import ClassText, Parameter, class_paths, read_class

ROOT = Path(__file__).parent.parent


def write(folder: Path, **files: str) -> None:
    """Write modules; `a__b` is the module `b` of the package `a`, and `init` stands for `__init__`."""
    for name, text in files.items():
        *parents, last = name.split("__")
        path = folder.joinpath(*parents, {"init": "__init__"}.get(last, last) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def read(folder: Path, class_path: str) -> ClassText:
    found = read_class(class_path, search_path=[str(folder)])
    assert found is not None
    return found


def parameter(text: ClassText, name: str) -> Parameter:
    return next(one for one in text.parameters if one.name == name)


NET = '''
    """A module."""
    from typing import Literal, Optional, Union
    Activation = Literal["gelu", "relu"]
    RATE = 1e-3

    class Base:
        pass

    class Net(Base):
        """A net.

            Its second paragraph is indented.

        Args:
            width: Size of the stream;
                a multiple of 8.
            act: What is between.
        """

        def __init__(self, width: int, act: Activation = "gelu", *, lr: float = RATE, drop: "float | None" = None,
                     bias: Optional[bool] = None, mode: Union[Literal["a", 1], None] = "a", path: str = "x",
                     betas: tuple = (0.9, 0.99), scale=-2, any=None) -> None:
            pass
'''


def test_the_signature_is_read_with_types_defaults_options_and_words(tmp_path: Path) -> None:
    write(tmp_path, net=NET)
    net = read(tmp_path, "net.Net")
    assert [one.name for one in net.parameters] == [
        "width", "act", "lr", "drop", "bias", "mode", "path", "betas", "scale", "any",
    ]  # fmt: skip
    width, act, lr, drop, bias, mode, path, betas, scale, anything = net.parameters
    assert (width.kind, width.has_default, width.about) == ("int", False, "Size of the stream; a multiple of 8.")
    assert (act.kind, act.default, act.options, act.annotation) == ("text", "gelu", ("gelu", "relu"), "Activation")
    assert (lr.kind, lr.default, lr.default_text, lr.about) == ("float", 0.001, "RATE", "")
    assert (drop.kind, drop.nullable, drop.has_default) == ("float", True, True)
    assert (bias.kind, bias.nullable, bias.options) == ("bool", True, ())
    assert (mode.options, mode.kind, mode.nullable) == (("a", 1), "other", True)
    assert (path.kind, path.default, path.options) == ("text", "x", ())
    assert (betas.has_default, betas.default_text, betas.kind) == (False, "(0.9, 0.99)", "other")
    assert (scale.kind, scale.default, scale.annotation) == ("int", -2, "")
    assert (anything.kind, anything.nullable) == ("other", True)


def test_the_docstring_is_cut_out_as_it_stands(tmp_path: Path) -> None:
    write(tmp_path, net=NET)
    net = read(tmp_path, "net.Net")
    assert net.docstring.startswith("A net.\n\n    Its second paragraph is indented.\n\nArgs:\n    width: Size of")
    assert (net.file, net.bases, net.takes_any) == (str(tmp_path / "net.py"), ("net.Base",), False)


def test_nothing_of_the_users_code_is_imported_or_run(tmp_path: Path) -> None:
    trap = 'import pathlib\npathlib.Path(__file__).with_name("ran").touch()\nraise RuntimeError("was run")\n'
    write(
        tmp_path,
        trap__init=trap,
        trap__net=trap + 'class Net:\n    def __init__(self, width: int = pathlib.Path("x").touch()): ...\n',
    )
    code = (
        "import sys; from lightning_autoresearch.classes import read_class; "
        f"print(read_class('trap.net.Net', search_path=[{str(tmp_path)!r}]).parameters[0].default_text, "
        "sorted({'torch', 'trap', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "pathlib.Path('x').touch() []"
    assert not list(tmp_path.rglob("ran"))
    assert not (tmp_path / "x").exists()


def test_a_class_is_found_through_reexports_and_inherits_init(tmp_path: Path) -> None:
    write(
        tmp_path,
        project__init="from .models import Net as Best\nfrom .parts import *\n",
        project__models="""
            from . import parts
            from project.kinds import Kind

            class Net(parts.Base):
                "Own words."
        """,
        project__parts="""
            from .kinds import Kind

            class Base:
                def __init__(self, kind: Kind = "x", depth=3):
                    '''B.

                    Args:
                        depth: How deep.
                    '''

            class Other:
                class Inner:
                    def __init__(self, a: bool = True): ...
        """,
        project__kinds="from typing import Literal as L, Literal\nKind = Literal['x', 'y']\n",
    )
    best = read(tmp_path, "project.Best")
    assert best.docstring == "Own words."
    assert best.bases == ("project.parts.Base",)
    assert parameter(best, "kind").options == ("x", "y")
    assert parameter(best, "depth").about == "How deep."
    assert parameter(read(tmp_path, "project.Other.Inner"), "a").default is True


def test_numpy_docstrings_are_understood_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        net='''
        class Net:
            """A net.

            Parameters
            ----------
            width : int
                How wide.
            """
            def __init__(self, width=8, **rest): ...
        ''',
    )
    net = read(tmp_path, "net.Net")
    assert parameter(net, "width").about == "How wide."
    assert net.takes_any
    assert [one.name for one in net.parameters] == ["width"]


def test_a_class_without_any_init_takes_anything(tmp_path: Path) -> None:
    write(tmp_path, net="class Net:\n    pass\n")
    assert read(tmp_path, "net.Net").takes_any


def test_the_first_folder_wins_and_packages_come_before_modules(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, net="class Net:\n    def __init__(self, first=1): ...\n")
    write(two, net__init="class Net:\n    def __init__(self, second=1): ...\n", space__net="class Net: ...\n")
    paths = [str(tmp_path / "missing"), str(one), str(two)]
    found = read_class("net.Net", search_path=paths)
    assert found is not None
    assert found.parameters[0].name == "first"
    assert read_class("space.net.Net", search_path=paths) is not None, "a namespace package"


@pytest.mark.parametrize(
    "class_path",
    [
        "net.Nothing", "nothing.Net", "net", "Net", "", "net.", ".net.Net", "net/../net.Net", "net.Net\n", "broken.Net",
        "binary.Net", "net.function", "net.VALUE", "circle.Net", "os.system", "builtins.eval",
    ],
)  # fmt: skip
def test_what_is_no_class_that_can_be_read_is_none(tmp_path: Path, class_path: str) -> None:
    write(
        tmp_path,
        net="class Net: ...\ndef function(): ...\nVALUE = 1\n",
        broken="class Net(:\n",
        circle="from ring import *\nfrom ring import Net\n",
        ring="from circle import *\nfrom circle import Net\n",
    )
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00class Net: ...")
    assert read_class(class_path, search_path=[str(tmp_path)]) is None


def test_bases_that_go_round_in_circles_end(tmp_path: Path) -> None:
    write(tmp_path, net="class A(B): ...\nclass B(A): ...\nclass C(C): ...\n")
    assert set(read(tmp_path, "net.A").bases) == {"net.A", "net.B"}
    assert read(tmp_path, "net.C").takes_any


def test_the_recipes_are_read_whole() -> None:
    gpt = read(ROOT, "recipes.gpt.GPT")
    assert len(gpt.parameters) == 23
    assert all(one.about and one.has_default for one in gpt.parameters)
    assert parameter(gpt, "activation").options == ("gelu", "relu_squared", "silu")
    assert parameter(gpt, "positions").options == ("rotary", "learned")
    assert gpt.docstring.startswith("A decoder-only transformer over bytes")


def test_classes_of_torch_are_read_quickly_and_without_importing_it() -> None:
    started = time.process_time()
    adam = read_class("torch.optim.AdamW", search_path=sys.path)
    assert time.process_time() - started < 3.0  # measured: 0.06 s alone on the machine
    assert adam is not None
    assert (parameter(adam, "lr").kind, parameter(adam, "lr").default) == ("float", 0.001)
    assert "torch.optim.optimizer.Optimizer" in adam.bases
    assert parameter(adam, "maximize").kind == "bool"
    assert not parameter(adam, "params").has_default


def test_a_name_that_torch_does_not_have_is_given_up_soon() -> None:
    started = time.process_time()
    assert read_class("torch.nope.X", search_path=sys.path) is None
    assert time.process_time() - started < 6.0  # measured: 0.4 s; its wildcard imports go round in circles


def test_every_class_path_of_a_task_is_found_once() -> None:
    task = {"model": {"class_path": "a.B"}, "trainer": {"callbacks": [{"class_path": "c.D"}, {"class_path": "a.B"}]}}
    assert class_paths(task) == ("a.B", "c.D")
