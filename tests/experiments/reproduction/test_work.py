"""Names of pieces of work, and the order in which they are made."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from numbers_of_work import Number

from dtag_fast.experiments.reproduction.budget import BUDGETS
from dtag_fast.experiments.reproduction.critic_error import CriticError
from dtag_fast.experiments.reproduction.datasets import Data, Maze
from dtag_fast.experiments.reproduction.dimension_gain import DimensionGain
from dtag_fast.experiments.reproduction.evaluations import Evaluation
from dtag_fast.experiments.reproduction.finetunings import Finetuning
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.studies import STUDIES
from dtag_fast.experiments.reproduction.tasks import Source
from dtag_fast.experiments.reproduction.trainings import Training
from dtag_fast.experiments.reproduction.work import Shelf, in_order, plain
from dtag_fast.experiments.reuse import code_fingerprint
from dtag_fast.rollout import AGSetting, Candidates

MAZE = Maze("umaze", 900)
CRITIC = Training("maze2d-umaze", Data(MAZE), "iql", 5, 1, (("policy", True),))
POLICY = Training("maze2d-umaze", Data(MAZE), "dt", 5, 1, (("d_model", 16), ("lr", 0.01)), critic=CRITIC)
EVALUATION = Evaluation(POLICY, CRITIC, (AGSetting(), AGSetting(2, 0.1)))


def test_the_same_fields_give_the_same_name():
    again = replace(EVALUATION, policy=replace(POLICY, critic=replace(CRITIC, data=Data(Maze("umaze", 900)))))
    assert again is not EVALUATION and again == EVALUATION and again.name == EVALUATION.name
    folder, _, rest = EVALUATION.name.partition("/")
    assert folder == "evaluations" and re.fullmatch(r"maze2d-umaze-dt-s1-iql-[0-9a-f]{10}\.json", rest)
    assert Shelf(Path("root")).path(POLICY) == Path("root") / POLICY.name and "." not in POLICY.name


CHANGES = [
    *((MAZE, change) for change in ({"size": "large"}, {"steps": 901}, {"seed": 1})),
    *(
        (POLICY, change)
        for change in (
            {"task": "maze2d-large"},
            {"data": Data(replace(MAZE, seed=1))},
            {"data": Data(MAZE, fraction=0.5)},
            {"data": Data(MAZE, seed=1)},
            {"data": Data("local/maze2d/umaze-v0")},
            {"algorithm": "adt"},
            {"updates": 6},
            {"seed": 2},
            {"changes": (("d_model", 16), ("lr", 0.02))},
            {"changes": (("d_model", 16),)},
            {"critic": None},
            {"critic": replace(CRITIC, seed=2)},
            {"critic": replace(CRITIC, data=Data(replace(MAZE, steps=901)))},
            {"holdout": 0.1},
        )
    ),
    *(
        (EVALUATION, change)
        for change in (
            {"policy": replace(POLICY, updates=6)},
            {"critic": None},
            {"critic": replace(CRITIC, seed=2)},
            {"settings": (AGSetting(),)},
            {"settings": (AGSetting(), AGSetting(2, 0.2))},
            {"target_returns": (1.0,)},
            {"episodes": 11},
            {"seed": 1},
            {"history_lengths": (1, 2)},
            {"candidates": Candidates(2)},
            {"gate": 0.9},
            {"chosen_by": (replace(EVALUATION, seed=1),)},
        )
    ),
]


@pytest.mark.parametrize(
    "work, change", CHANGES, ids=[f"{type(w).__name__}-{'-'.join(c)}" for w, c in CHANGES]
)
def test_any_other_field_gives_another_name(work, change):
    assert replace(work, **change).name != work.name


@dataclass(frozen=True)
class Adam:
    beta: float = 0.9
    eps: float = 1e-8


@dataclass(frozen=True)
class RMSprop:
    beta: float = 0.9
    eps: float = 1e-8


def test_settings_of_another_class_with_the_same_fields_differ():
    assert plain(Adam()) != plain(RMSprop()) and plain((Adam(), {"a": [1]})) == [plain(Adam()), {"a": [1]}]


def test_what_a_class_gets_later_changes_no_name():
    @dataclass(frozen=True)
    class Setting:
        steps: int
        lr: float = 0.03

    before = plain(Setting(3))

    @dataclass(frozen=True)
    class Setting:
        steps: int
        lr: float = 0.03
        starts: int = 1

    assert plain(Setting(3)) == before == {"kind": "Setting", "steps": 3}
    assert plain(Setting(3, starts=4)) == before | {"starts": 4}


def test_optimizers_of_action_gradient_differ():
    from dtag_fast.ops.refine.options import Adam, RMSprop

    names = {
        replace(EVALUATION, settings=(AGSetting(2, 0.1, optimizer=optimizer),)).name
        for optimizer in ("sgd", "adam", Adam(), RMSprop(), Adam(eps=1e-3), RMSprop(eps=1e-3))
    }
    assert len(names) == 6


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("study", STUDIES)
def test_pieces_of_a_suite_have_names_of_their_own_that_any_file_system_takes(study, budget, tmp_path):
    for body, quality in (task.split("-", 1) for task in STUDIES[study].tasks):
        (tmp_path / "local" / body / f"{quality}-v0" / "data").mkdir(parents=True)
        (tmp_path / "local" / body / f"{quality}-v0" / "data" / "metadata.json").write_text("{}")
    lab = Lab(BUDGETS[budget], Source("local", tmp_path), 2)
    goals = STUDIES[study].goals(lab, STUDIES[study].tasks)
    assert len({(goal.task, goal.method, goal.seed) for goal in goals}) == len(goals)
    works = [work for wave in in_order([goal.work for goal in goals]) for work in wave]
    assert len({work.name.lower() for work in works}) == len(works)
    assert all(re.fullmatch(r"[a-z-]+/[a-z0-9_-]+(\.json)?", work.name) for work in works)
    assert all(work.seconds > 0 for work in works)
    reported = {work.seed for work in works if isinstance(work, Training)}
    assert {1, 2} <= reported <= {0, 1, 2}  # 0 chooses


@pytest.mark.parametrize("kind", [Training, Evaluation, Finetuning, CriticError, DimensionGain])
def test_what_makes_a_piece_is_of_its_code(kind):
    assert f"{kind.__module__.removeprefix('dtag_fast.').replace('.', '/')}.py" in kind.code
    assert code_fingerprint(*kind.code)


def test_what_a_wave_needs_is_in_those_before_it():
    a, b = Number(1), Number(2)
    c = Number(3, (a,))
    d = Number(4, (b, c))
    assert in_order([d, a, c]) == [[b, a], [c], [d]] or in_order([d, a, c]) == [[a, b], [c], [d]]
    assert in_order([]) == []
    found = in_order([EVALUATION])
    assert found == [[MAZE], [CRITIC], [POLICY], [EVALUATION]]


def test_a_piece_that_two_need_is_there_once():
    a = Number(1)
    waves = in_order([Number(2, (a,)), Number(3, (Number(1),))])
    assert waves == [[a], [Number(2, (a,)), Number(3, (a,))]]
