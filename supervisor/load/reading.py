"""Read a campaign file into a `Campaign`, or report every error in it at once."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import cattrs
from attrs import evolve
from cattrs.gen import make_dict_structure_fn

from ..config.convert import CONVERTER as STRICT
from ..config.convert import leaves, read_mappings, unknown_key
from ..config.document import InvalidConfig, read_toml
from ..config.files import Unreadable
from ..config.locate import Path
from ..config.units import Duration, parse_duration, show
from ..config.variables import ENV, NO_NAME, OPEN
from .campaign import (
    Branch,
    Campaign,
    Dialogue,
    Fault,
    FaultKind,
    GiveUp,
    Rate,
    Reply,
    Run,
    Share,
    Sigma,
    Stage,
    Step,
    Think,
    Users,
    Weight,
    ends,
)
from .feeding import Row, missing, read_rows
from .measures import Place, place_text
from .pieces import FILE_MAX, Pieces
from .thresholds import Threshold, parse_threshold

SESSIONS_MAX = 2_000_000  # of one run: its schedule is drawn before the start and kept in memory
STEPS_MAX = 200  # of one dialogue
WEIGHT_MAX = 1_000_000.0  # of a dialogue
SIGMA_MAX = 10.0  # of times to think: with 3, one user in a hundred takes a thousand medians
EXPECTATIONS = ("http", "metric", "kv", "contact", "sms", "log")  # of a test: `expect_http` ...
ONLY_TESTS = ("expect_outcome", *(f"expect_{kind}" for kind in EXPECTATIONS))
"""Keys of a step that only `jsbox test` looks at."""

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*(s|m|h)")
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(value: Any) -> Rate:
    """`"80/s"` to 80.0; also `/m` and `/h`."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or float(found[1]) <= 0:
        raise ValueError(f'expected a rate, such as "80/s" or "10/m", got {show(value)}')
    return Rate(float(found[1]) / _PER[found[2]])


def _number(value: Any, most: float) -> float:
    """A number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"expected a number from 0 to {most:,.0f}, got {show(value)}")
    return float(value)


def _share(value: Any) -> Share:
    return Share(_number(value, 1))


def _sigma(value: Any) -> Sigma:
    return Sigma(_number(value, SIGMA_MAX))


def _weight(value: Any) -> Weight:
    return Weight(_number(value, WEIGHT_MAX))


def _stage(raw: Any, _: Any) -> Stage:
    if not isinstance(raw, dict):
        raise ValueError(  # noqa: TRY004  # as all hooks
            'expected { rate = "5/s", for = "30s" } or { ramp = "5/s..80/s", for = "2m" },'
            f" got {show(raw)}"
        )
    known = ("rate", "ramp", "for", "warmup")
    for key in raw:
        if key not in known:
            raise ValueError(unknown_key(key, known))
    if ("rate" in raw) is ("ramp" in raw) or "for" not in raw:
        raise ValueError(
            f"expected `for` and one of `rate` and `ramp`, got {', '.join(raw) or 'nothing'}"
        )
    if not isinstance(raw.get("warmup", False), bool):
        text = f"warmup: expected true or false, got {show(raw['warmup'])}"
        raise ValueError(text)  # noqa: TRY004  # as all hooks
    if "rate" in raw:
        start = end = parse_rate(raw["rate"])
    else:
        first, dots, last = (
            raw["ramp"].partition("..") if isinstance(raw["ramp"], str) else ("",) * 3
        )
        if not dots or ".." in last:
            raise ValueError(f'ramp: expected "5/s..80/s", got {show(raw["ramp"])}')
        start, end = parse_rate(first.strip()), parse_rate(last.strip())
    return Stage(parse_duration(raw["for"]), start, end, raw.get("warmup", False))


def _converter() -> cattrs.Converter:
    converter = STRICT.copy()
    read_mappings(converter)
    simple: dict[Any, Callable[[Any], Any]] = {
        Rate: parse_rate, Share: _share, Sigma: _sigma, Weight: _weight,
        Duration | None: parse_duration,
    }  # fmt: skip
    for kind, parse in simple.items():
        converter.register_structure_hook_func(partial(operator.eq, kind), partial(_parsed, parse))
    converter.register_structure_hook(Stage, _stage)
    tables: tuple[type[Any], ...] = (
        Users, Think, GiveUp, Branch, Step, Dialogue, Reply, Run,
    )  # fmt: skip
    for table in tables:
        renames: dict[str, Any] = (
            {"from_": cattrs.override(rename="from")} if table is Users else {}
        )
        hook = make_dict_structure_fn(table, converter, _cattrs_forbid_extra_keys=True, **renames)
        converter.register_structure_hook(table, hook)
    return converter


def _parsed(parse: Callable[[Any], Any], value: Any, _: Any) -> Any:
    return parse(value)


CONVERTER = _converter()
"""From TOML to the classes of a campaign."""
TOP_LEVEL = ("run", "dialogue", "stub", "faults", "thresholds")
FAULTS: tuple[FaultKind, ...] = ("kill-sandbox", "gateway-disconnect", "reload-limits", "drain")


def _without_tests(step: Any) -> Any:
    """A step of a conversation, without what only `jsbox test` looks at."""
    if not isinstance(step, dict):
        return step
    return {key: value for key, value in step.items() if key not in ONLY_TESTS}


def too_many(stages: Sequence[Stage]) -> str:
    """What is wrong with the number of sessions of a run; empty if nothing is."""
    sessions = sum(stage.sessions for stage in stages)
    most = SESSIONS_MAX
    return f"{sessions:.0f} sessions; a run may have {most}" if not sessions <= most else ""


def load_campaign(file: FilePath) -> Campaign:
    """Read a campaign and the files it names.

    Raises:
        InvalidConfig: With every error in it.
    """
    document, lines = read_toml(file, FILE_MAX)
    return _Loader(file, lines, CONVERTER).campaign(document)


class _Loader(Pieces):
    def campaign(self, document: dict[str, Any]) -> Campaign:
        self.only(document, TOP_LEVEL)
        raw_run = document.get("run", {})
        if isinstance(raw_run, dict) and isinstance(raw_run.get("token"), str):
            raw_run = raw_run | {"token": self.expand(raw_run["token"])}
        run = self.piece(Run, raw_run, ("run",))
        dialogues = self.dialogues(document.get("dialogue", []))
        stubs = self.stubs(document.get("stub", {}))
        faults = self.named("faults", document.get("faults", {}), self.one_fault)
        thresholds = self.named("thresholds", document.get("thresholds", {}), parse_threshold)
        rows = self.rows(run.users.data, dialogues) if run and run.users.data else []
        if run is not None:
            self.check_run(run)
            self.check_faults(faults, run)
        self.check_thresholds(thresholds, dialogues)
        if self.problems or run is None:
            raise InvalidConfig(self.file, self.problems)
        return Campaign(
            file=self.file,
            run=run,
            dialogues=dialogues,
            stubs=stubs,
            faults=sorted(faults, key=lambda one: one.at),
            thresholds=thresholds,
            rows=rows,
        )

    def rows(self, name: str, dialogues: Sequence[Dialogue]) -> list[Row]:
        """The data of users; each `{column}` of a step must be in it."""
        try:
            rows = read_rows(self.file.parent / name)
        except (Unreadable, ValueError) as error:
            self.fault(("run", "users", "data"), str(error))
            return []
        for n, dialogue in enumerate(dialogues):
            for index, step in enumerate(dialogue.steps):
                if (column := missing(step, rows[0])) is not None:
                    text = f"{show(name)} has no column {show(column)}"
                    self.fault(("dialogue", n, "steps", index), text)
        return rows

    def check_run(self, run: Run) -> None:
        if not run.stages:
            self.fault(("run", "stages"), "expected at least one stage")
        if problem := too_many(run.stages):
            self.fault(("run", "stages"), problem)
        if 10 ** run.users.from_.count("#") < run.users.pool:
            pattern, pool = show(run.users.from_), run.users.pool
            detail = f"{pattern} makes fewer than {pool} addresses; put more # in it"
            self.fault(("run", "users", "from"), detail)
        warm = [stage.is_warmup for stage in run.stages]
        if warm and (all(warm) or sorted(warm, reverse=True) != warm):
            self.fault(
                ("run", "stages"),
                "stages with warmup = true come first, and at least one stage is measured",
            )

    def check_thresholds(
        self, thresholds: Sequence[Threshold], dialogues: Sequence[Dialogue]
    ) -> None:
        names = {dialogue.name for dialogue in dialogues}
        for one in thresholds:
            if one.dialogue is not None and one.dialogue not in names:
                self.fault(("thresholds", one.name), f"there is no dialogue {show(one.dialogue)}")

    def dialogues(self, raw: Any) -> list[Dialogue]:
        if not isinstance(raw, list) or not raw:
            self.fault(("dialogue",), "expected at least one [[dialogue]]")
            return []
        found = []
        for index, item in enumerate(raw):
            path = ("dialogue", index)
            is_file = isinstance(item, dict) and isinstance(item.get("file"), str)
            named = {"name": FilePath(item["file"]).name.split(".")[0]} | item if is_file else item
            one = self.piece(Dialogue, named, path)
            if one is not None:
                found.append(self.with_steps(one, path))
        names = [one.name for one in found]
        for index, name in enumerate(names):
            if name in names[:index]:
                self.fault(("dialogue", index, "name"), f"two dialogues are called {show(name)}")
        if found and not sum(one.weight for one in found):
            self.fault(("dialogue",), "all weights are 0")
        return found

    def with_steps(self, one: Dialogue, path: Path) -> Dialogue:
        if one.file is not None:
            if one.steps:
                self.fault((*path, "file"), "expected `steps` or `file`, got both")
            chat = self.chat(self.file.parent / one.file, path)
            if chat is None:
                return one
            one = evolve(one, steps=chat)
        if not 0 < len(one.steps) <= STEPS_MAX:
            self.fault((*path, "steps"), f"expected 1 to {STEPS_MAX} steps, got {len(one.steps)}")
        elif (most := one.longest) > STEPS_MAX:
            text = f"expected at most {STEPS_MAX} steps in a conversation, got {most}"
            self.fault((*path, "steps"), text)
        return evolve(one, steps=self.named_branches(one.steps, (*path, "steps"), (), set()))

    def named_branches(
        self, steps: Sequence[Step], path: Path, branch: Place, known: set[str]
    ) -> Sequence[Step]:
        """Check steps and those of their branches; return them with a name for each branch.

        `branch` is the one that has these steps, () if none; `known`, all so far as they are shown.
        """
        found = []
        for index, step in enumerate(steps):
            where = (*path, index)
            self.check_step(step, where, is_first=not branch and index == 0)
            if index and ends(steps[index - 1]):
                self.fault(where, "is never reached: the step before it ends the session")
            self.check_order(step.branches, (*where, "branches"))
            place = (*branch, index + 1)
            branches = tuple(
                self.named_branch(one, (*where, "branches", number), place, known)
                for number, one in enumerate(step.branches)
            )
            found.append(evolve(step, branches=branches))
        return tuple(found)

    def check_step(self, step: Step, path: Path, *, is_first: bool) -> None:
        if (step.dial is None) is (step.send is None):
            self.fault(path, "expected one of `dial` and `send`")
        elif step.dial is not None and not is_first:
            self.fault(path, "`dial` begins a conversation; here it has begun")
        if step.branches and (step.expect is not None or step.expect_end):
            self.fault(path, "expected `expect` in each of its branches, not beside them")

    def named_branch(self, one: Branch, path: Path, step: Place, known: set[str]) -> Branch:
        """Check a branch of a step, and its own steps; return it with a name."""
        if one.expect_end and one.steps:
            self.fault(path, "expected `steps` or `expect_end`, got both")
        name = one.name or one.expect
        place = (*step, name)
        if (shown := place_text(place)) in known:
            text = f"two branches are called {show(shown)}; give one another `name`"
            self.fault((*path, "name" if one.name else "expect"), text)
        known.add(shown)
        steps = self.named_branches(one.steps, (*path, "steps"), place, known)
        return evolve(one, name=name, steps=steps)

    def check_order(self, branches: Sequence[Branch], path: Path) -> None:
        """The first branch that expects a reply is taken: each must be left something."""
        for number, one in enumerate(branches):
            first = next((two for two in branches[:number] if two.expect in one.expect), None)
            if first is not None:
                self.fault(
                    (*path, number, "expect"),
                    f"is never reached: every reply with {show(one.expect)} has"
                    f" {show(first.expect)}, which a branch before expects;"
                    " put the longer text first",
                )

    def chat(self, file: FilePath, path: Path) -> Sequence[Step] | None:
        """The steps of a file; None if they cannot be read, and that is reported."""
        try:
            document, _ = read_toml(file, FILE_MAX)
        except InvalidConfig as error:
            self.fault((*path, "file"), str(error))
            return None
        steps = document.get("steps")
        try:
            if not isinstance(steps, list):
                return ()
            return CONVERTER.structure(list(map(_without_tests, steps)), tuple[Step, ...])
        except cattrs.BaseValidationError as group:
            for where, text in leaves(group, ("steps",)):
                self.fault((*path, "file"), f"{file}: {'.'.join(map(str, where))}: {text}")
            return None

    def check_faults(self, faults: Sequence[Fault], run: Run) -> None:
        seconds = sum(stage.for_ for stage in run.stages)
        for one in faults:
            if one.at >= seconds:
                self.fault(
                    ("faults",),
                    f"{one.kind} at {one.at:g} s would never happen:"
                    f" the stages are over after {seconds:g} s",
                )

    def one_fault(self, at: str, kind: Any) -> Fault:
        if kind not in FAULTS:
            raise ValueError(
                f"expected {' or '.join(show(one) for one in FAULTS)}, got {show(kind)}"
            )
        return Fault(parse_duration(at), kind)

    def named(self, name: str, raw: Any, parse: Any) -> list[Any]:
        """Parse each key of a table together with its value."""
        found = []
        for key, value in self.table(raw, (name,)).items():
            try:
                found.append(parse(key, value))
            except ValueError as error:
                self.fault((name, key), str(error))
        return found

    def expand(self, text: str) -> str:
        def put_in(found: re.Match[str]) -> str:
            if found[0] == OPEN:
                self.fault(("run", "token"), NO_NAME)
            if found[1] is None:
                return "$"
            if found[1] not in os.environ:
                self.fault(("run", "token"), f"the environment has no variable {found[1]}")
            return os.environ.get(found[1], "")

        return ENV.sub(put_in, text)
