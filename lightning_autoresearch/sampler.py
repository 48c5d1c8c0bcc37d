"""The offline scientist: hypotheses and edits of the search space from measurements alone, without a language model.

Four ways to a hypothesis, in this order of preference:

1. momentum: a numeric change was kept, so take one more step the same way; after a drop half the step;
2. combination: two changes of one key each gained when tested alone and are not in the branch: try them together;
3. probe: one key, one direction that was not tried from where the branch stands; later again with half the step
   (a pattern search, Hooke and Jeeves 1961);
4. draw: one to `max_changes` keys, rather those with measured influence, drawn by the tree-structured Parzen estimator
   (TPE; Bergstra, Bardenet, Bengio and Kegl 2011, "Algorithms for hyper-parameter optimization"; its controls are
   explained by Watanabe 2023, arXiv:2304.11127), the other keys held at the branch's values.

When these run dry, every reachable configuration that is left is listed, so a finite space is searched to its end.
The data behind them are made ready in `ledger`, the rules that rewrite the space are in `reshape`.  Nothing is
remembered between calls: Optuna's study is rebuilt from the briefing each time, in memory.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lightning_autoresearch.hypothesis import Briefing, Hypothesis, Prediction, Proposal
from lightning_autoresearch.ledger import (
    Ledger,
    coordinate,
    direction,
    is_number,
    is_positive,
    same,
    shown,
    within_factor,
)
from lightning_autoresearch.reshape import edited, space_edits
from lightning_autoresearch.space import SMALLEST, Categorical, Domain, Float, Integer, Overrides, SearchSpace, Value
from lightning_autoresearch.trial import canonical

if TYPE_CHECKING:
    import optuna

SOURCE = "sampler"
"""Name under which its hypotheses go."""

SMALLEST_FACTOR = 2.0
"""Smallest factor of a first probe of a log-scaled key; the largest is the policy's `max_factor`."""
FIRST_STEP = 0.25
"""Size of a first probe of a linear key, as a share of its range."""
MOST_HALVINGS = 3
"""A direction is given up after so many dropped probes from the same value, each half as far as the one before."""
MOST_COMBINED = 12
"""Changes that gained alone, best first, of which pairs are made."""
DRAW_SHARE = 0.5
"""Share of draws by TPE once every first probe was made; the rest are smaller probes."""
FEWEST_TOLD = 6
"""Measured configurations that TPE needs; below, draws are uniform."""
MOST_TOLD = 400
"""TPE is told the newest so many configurations at most, which bounds its time."""
FLAT_INFLUENCE = 0.5
"""Influence, in standard deviations of a gain, of a key that was never tested alone."""
RISKY = 0.5
"""A candidate whose estimated probability of failing is above this is not proposed while there is anything else."""
LEAST_STEP = 0.02
"""Smallest step of a probe, as a share of the key's range; below, noise decides."""
GRID = 33
"""Positions per key when what is left of a continuous or very large domain is listed."""

PRIOR_KEEP = 0.2
"""Probability of a keep before any finding.  A change without effect passes the screen with probability 0.33 against
fresh bars and more rarely against bars that were themselves selected; most changes are worse than no effect."""
PRIOR_WEIGHT = 2.0
"""Number of findings that this prior is worth."""
ANY_WEIGHT = 0.15
"""What a finding about another key counts in a keep rate, compared with an equal one."""
HALF_LIFE = 10.0
"""Number of findings after which one counts half in a keep rate: keeps grow rarer as a search goes on."""
SHRINKAGE = 1.0
"""Number of findings without effect by which a predicted gain is shrunken."""
PRIOR_SPREAD = 3.0
"""Expected error of a predicted gain before any finding, in standard deviations of a paired gain under no effect."""
PRIOR_ERRORS = 2.0
"""Number of measured errors that this is worth."""
ERRORS = 60
"""Newest measured errors that an interval is made of."""
TAIL = 0.1
"""Probability on each side of a stated interval, which makes it one of 80 %."""

Kind = Literal["momentum", "combination", "probe", "draw", "rest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A change that could become a hypothesis."""

    kind: Kind
    """The way it was found."""
    overrides: Mapping[str, Value]
    """Dotted keys and their new values."""
    reason: str
    """What in the data speaks for it, to follow the colon of a statement."""


class Sampler:
    """The built-in offline proposer: a pure function of the briefing.

    Its randomness is seeded by `briefing.seed` plus the number of findings.  Probabilities are smoothed keep rates of
    similar findings, predicted gains are shrunken kernel-weighted means of measured ones (`_predict`); both know
    nothing but the study's own findings, and say little while there are few.

    Args:
        reshapes: whether it also edits the search space; not where somebody else does.
        without_effect: the keys of a configuration that its classes do not take; these are left alone.
    """

    def __init__(self, *, reshapes: bool = True, without_effect: Callable[[Overrides], Collection[str]] = lambda _: ()):
        self._reshapes = reshapes
        self._without_effect = without_effect

    def propose(self, briefing: Briefing) -> Proposal:
        """Answer with at most `briefing.wanted` hypotheses for the branch, spread over different keys.

        Fewer, or none, are returned when nothing within the limits is left untried.  Space edits are stated with them
        and are taken as in effect.
        """
        idle = self._without_effect(briefing.branch)
        space = SearchSpace(domains={key: one for key, one in briefing.space.domains.items() if key not in idle})
        if not len(space):
            return Proposal(hypotheses=(), source=SOURCE)
        ledger = Ledger(briefing, space)
        edits = space_edits(ledger) if self._reshapes else ()
        if edits:
            ledger = Ledger(briefing, edited(space, edits))
        chosen = _choose(ledger, self._without_effect)
        hypotheses = tuple(_hypothesis(ledger, found, number) for number, found in enumerate(chosen, start=1))
        return Proposal(hypotheses=hypotheses, source=SOURCE, space_edits=edits)


# ---------------------------------------------------------------------------------------------------------- choosing
class _Batch:
    """The candidates chosen so far, and what may still join them."""

    def __init__(self, ledger: Ledger, without_effect: Callable[[Overrides], Collection[str]]):
        self.ledger = ledger
        self._without_effect = without_effect
        self.chosen: list[Candidate] = []
        self.seen: set[str] = set()
        self.crowded: list[Candidate] = []
        self.risky: list[Candidate] = []

    @property
    def full(self) -> bool:
        return len(self.chosen) >= self.ledger.briefing.wanted

    @property
    def free(self) -> set[str]:
        """The keys that no chosen candidate touches."""
        return set(self.ledger.space).difference(*(one.overrides for one in self.chosen))

    def offer(self, candidate: Candidate) -> bool:
        """Take a candidate in if it is new, not likely to fail, and about keys that the batch does not touch yet."""
        if not self._is_new(candidate):
            return False
        if self.ledger.failure_probability(candidate.overrides) > RISKY:
            self.risky.append(candidate)
            return False
        if self.free and not self.free.issuperset(candidate.overrides):
            self.crowded.append(candidate)
            return False
        return self.take(candidate)

    def take(self, candidate: Candidate) -> bool:
        """Take a candidate in if it is new and there is room."""
        if self.full or not self._is_new(candidate):
            return False
        self.chosen.append(candidate)
        self.seen.add(self._name(candidate))
        return True

    def _is_new(self, candidate: Candidate) -> bool:
        name = self._name(candidate)
        if not candidate.overrides or name in self.seen or name in self.ledger.briefing.tried:
            return False
        if not any(key.endswith("class_path") for key in candidate.overrides):
            return True
        return not set(self._without_effect({**self.ledger.branch, **candidate.overrides})) & candidate.overrides.keys()

    def _name(self, candidate: Candidate) -> str:
        return canonical({**self.ledger.briefing.branch, **candidate.overrides})


def _choose(ledger: Ledger, without_effect: Callable[[Overrides], Collection[str]]) -> list[Candidate]:
    """A batch: the ways in order of preference, then what overlapped, then what is left, then what is risky."""
    rng = random.Random(ledger.briefing.seed + len(ledger.briefing.findings))
    batch = _Batch(ledger, without_effect)
    for candidate in itertools.chain(_momentum(ledger), _combinations(ledger), _first_probes(ledger, rng)):
        if batch.full:
            return batch.chosen
        batch.offer(candidate)
    _fill_by_turns(batch, ledger, rng)
    for later in (lambda: batch.crowded, lambda: _rest(ledger, rng, cliffs=True), lambda: batch.risky):
        for candidate in later():
            if batch.full:
                return batch.chosen
            batch.take(candidate)
    if not batch.chosen:
        for candidate in _rest(ledger, rng, cliffs=False):
            if batch.full:
                break
            batch.take(candidate)
    return batch.chosen


def _fill_by_turns(batch: _Batch, ledger: Ledger, rng: random.Random) -> None:
    """Draws and smaller probes by turns, until the batch is full or both ran dry."""
    draws, probes = _draws(batch, ledger, rng), _small_probes(ledger, rng)
    while not batch.full:
        first, second = (draws, probes) if rng.random() < DRAW_SHARE else (probes, draws)
        if not _offer_one(batch, first) and not _offer_one(batch, second):
            return


def _offer_one(batch: _Batch, candidates: Iterator[Candidate]) -> bool:
    return any(batch.offer(candidate) for candidate in candidates)


# -------------------------------------------------------------------------------------------------------------- ways
def _momentum(ledger: Ledger) -> Iterator[Candidate]:
    """One more step after the newest kept change of each numeric key."""
    for key, domain in ledger.space.domains.items():
        last = ledger.last_kept(key)
        if isinstance(domain, Categorical) or last is None or last.after != ledger.branch[key]:
            continue
        drops = ledger.drops(key, last.direction)
        if drops > MOST_HALVINGS:
            continue
        size = abs(coordinate(domain, last.after) - coordinate(domain, last.before)) * 0.5**drops
        value = _move(ledger, key, last.direction, size)
        if value is not None:
            gain = "" if last.gain is None else f", gained {last.gain:.3g}"
            reason = f"the step before it, from {shown(last.before)} to {shown(last.after)}{gain} and was kept"
            yield Candidate(kind="momentum", overrides={key: value}, reason=reason)


def _combinations(ledger: Ledger) -> Iterator[Candidate]:
    """Pairs of changes that gained alone, best sum first."""
    if ledger.briefing.max_changes < 2:
        return
    good = [step for step in ledger.unused_gains() if _is_allowed(ledger, step.key, step.after)]
    good = sorted(good, key=lambda step: -(step.gain or 0.0))[:MOST_COMBINED]
    pairs = [pair for pair in itertools.combinations(good, 2) if pair[0].key != pair[1].key]
    for one, two in sorted(pairs, key=lambda pair: -((pair[0].gain or 0.0) + (pair[1].gain or 0.0))):
        reason = f"tested alone they gained {one.gain:.3g} and {two.gain:.3g}"
        yield Candidate(kind="combination", overrides={one.key: one.after, two.key: two.after}, reason=reason)


def _first_probes(ledger: Ledger, rng: random.Random) -> Iterator[Candidate]:
    """Changes of one key in directions, or to choices, that were not tried from the branch's value."""
    keys = list(ledger.space)
    rng.shuffle(keys)
    per_key = [list(_first_probes_of(ledger, rng, key)) for key in keys]
    for row in itertools.zip_longest(*per_key):
        yield from (candidate for candidate in row if candidate is not None)


def _first_probes_of(ledger: Ledger, rng: random.Random, key: str) -> Iterator[Candidate]:
    domain = ledger.space[key]
    if isinstance(domain, Categorical):
        tested = [step.after for step in ledger.steps_from_here(key)]
        values = [value for value in ledger.options(key) if value not in tested and _is_allowed(ledger, key, value)]
    else:
        ways = [way for way in (1, -1) if ledger.drops(key, way) == 0 and ledger.arrived(key) != way]
        moves = [_move(ledger, key, way, _first_size(ledger, rng, domain)) for way in ways]
        values = [value for value in moves if value is not None]
    rng.shuffle(values)
    for value in values:
        yield Candidate(kind="probe", overrides={key: value}, reason="this was not tried from here yet")


def _small_probes(ledger: Ledger, rng: random.Random) -> Iterator[Candidate]:
    """Probes again with half the step, a quarter, an eighth; directions with the fewest drops first."""
    turns = []
    for key, domain in ledger.space.domains.items():
        if isinstance(domain, Categorical):
            continue
        for way in (1, -1):
            drops = ledger.drops(key, way)
            if drops <= MOST_HALVINGS:
                turns.append(
                    (
                        drops - math.log(ledger.influence(key, FLAT_INFLUENCE)) * rng.random(),
                        rng.random(),
                        key,
                        way,
                        drops,
                    )
                )
    for _, _, key, way, drops in sorted(turns):
        size = _first_size(ledger, rng, ledger.space[key]) * 0.5 ** max(drops, 1)
        value = _move(ledger, key, way, size)
        if value is not None:
            reason = f"a smaller step than those dropped from here ({drops})" if drops else "a smaller step from here"
            yield Candidate(kind="probe", overrides={key: value}, reason=reason)


def _first_size(ledger: Ledger, rng: random.Random, domain: Domain) -> float:
    """Size of a first probe in the domain's coordinate: a log factor, or a share of the range."""
    assert not isinstance(domain, Categorical)
    if domain.scale == "log":
        most = ledger.briefing.max_factor
        return math.log(min(SMALLEST_FACTOR, most)) + rng.random() * math.log(max(most / SMALLEST_FACTOR, 1.0))
    return FIRST_STEP * (domain.high - domain.low) * (0.75 + 0.5 * rng.random())


def _draws(batch: _Batch, ledger: Ledger, rng: random.Random) -> Iterator[Candidate]:
    """Draws by TPE for changing sets of keys; ends after a number of them, so that a small space cannot hold it up."""
    study = _study(ledger, rng.randrange(2**31))
    for _ in range(4 * ledger.briefing.wanted + 8):
        drawn = _draw(ledger, study, _some_keys(ledger, rng, batch.free or set(ledger.space)), rng)
        near = {key: _nearest(ledger, key, value) for key, value in drawn.items()}
        overrides = {key: value for key, value in near.items() if _is_allowed(ledger, key, value)}
        if overrides:
            yield Candidate(kind="draw", overrides=overrides, reason=ledger.where_the_best_lie(overrides))


def _some_keys(ledger: Ledger, rng: random.Random, free: set[str]) -> list[str]:
    """One to `max_changes` keys, weighted by influence; one key is twice as likely as two, two twice as three."""
    left = [key for key in ledger.space if key in free]
    most = min(ledger.briefing.max_changes, len(left))
    count = rng.choices(range(1, most + 1), weights=[0.5**number for number in range(most)])[0]
    picked = []
    for _ in range(count):
        weights = [ledger.influence(key, FLAT_INFLUENCE) for key in left]
        picked.append(left.pop(rng.choices(range(len(left)), weights=weights)[0]))
    return picked


def _rest(ledger: Ledger, rng: random.Random, *, cliffs: bool) -> Iterator[Candidate]:
    """All within reach of the branch, fewest changes first; exact for choices and for small ranges of integers."""
    options = {key: _listed(ledger, key, cliffs=cliffs) for key in ledger.space}
    for values in options.values():
        rng.shuffle(values)
    for count in range(1, min(ledger.briefing.max_changes, len(options)) + 1):
        for keys in itertools.combinations([key for key in options if options[key]], count):
            for chosen in itertools.product(*(options[key] for key in keys)):
                overrides = dict(zip(keys, chosen, strict=True))
                yield Candidate(kind="rest", overrides=overrides, reason="no better founded change was left to try")


def _listed(ledger: Ledger, key: str, *, cliffs: bool) -> list[Value]:
    """The values of a key within reach: all of them, or a grid where there are too many."""
    domain = ledger.space[key]
    points: list[Value]
    if isinstance(domain, Categorical):
        points = list(domain.choices)
    elif isinstance(domain, Integer) and domain.high - domain.low < 8 * GRID:
        points = list(range(domain.low, domain.high + 1))
    else:
        points = [_nearest(ledger, key, domain.from_unit(number / (GRID - 1))) for number in range(GRID)]
    return [value for value in dict.fromkeys(points) if _is_allowed(ledger, key, value, cliffs=cliffs)]


# ------------------------------------------------------------------------------------------------------------- moves
def _move(ledger: Ledger, key: str, way: int, size: float) -> float | int | None:
    """The value one step away from the branch's; null when a bound, the factor limit or a cliff leaves none."""
    domain, old = ledger.space[key], ledger.branch[key]
    assert not isinstance(domain, Categorical)
    if not ledger.is_placed(key):
        target = domain.from_unit(0.5 + 0.25 * way)
    else:
        assert isinstance(old, (int, float))
        here = coordinate(domain, old)
        cliff = ledger.cliffs.get((key, way))
        size = size if cliff is None else min(size, 0.5 * abs(cliff - here))
        width = coordinate(domain, domain.high) - coordinate(domain, domain.low)
        if size < LEAST_STEP * width and isinstance(domain, Float):
            return None
        target = _from_coordinate(domain, here + way * size)
        if isinstance(domain, Integer) and way * (round(target) - old) < 1:
            target = old + way
    value = _nearest(ledger, key, target)
    if not _is_allowed(ledger, key, value) or (ledger.is_placed(key) and direction(old, value) != way):
        return None
    return value  # type: ignore[return-value]


def _from_coordinate(domain: Float | Integer, place: float) -> float:
    """Inverse of `ledger.coordinate`, bounded so that it cannot overflow."""
    if domain.scale == "log":
        return math.exp(min(max(place, math.log(domain.low)), math.log(domain.high)))
    return min(max(place, domain.low), domain.high)


def _is_allowed(ledger: Ledger, key: str, value: Value, *, cliffs: bool = True) -> bool:
    """Whether a value differs from the branch's, is in the domain, within the factor limit and not behind a cliff."""
    domain, old = ledger.space[key], ledger.branch[key]
    if same(value, old) or not domain.contains(value) or (cliffs and ledger.is_behind_cliff(key, value)):
        return False
    one_more = isinstance(domain, Integer) and is_number(old) and abs(value - old) <= 1  # type: ignore[operator]
    return one_more or within_factor(old, value, ledger.briefing.max_factor)


def _nearest(ledger: Ledger, key: str, value: Value) -> Value:
    """A choice as it is; for a number the nearest one within the domain and the factor limit, snapped."""
    domain = ledger.space[key]
    if isinstance(domain, Categorical):
        return value
    return _snapped(domain, ledger.branch[key], value, ledger.briefing.max_factor)  # type: ignore[arg-type]


def _snapped(domain: Float | Integer, old: Value, value: float, max_factor: float) -> float | int:
    """Three significant digits or a whole number, inside the domain and the factor limit if there is such a number."""
    low, high = float(domain.low), float(domain.high)
    if is_positive(old):
        low = low if value <= 0 else max(low, old / max_factor)  # type: ignore[operator]
        high = min(high, old * max_factor)  # type: ignore[operator]
        if isinstance(domain, Integer):
            low, high = min(low, old - 1), max(high, old + 1)  # type: ignore[operator]
    value = min(max(value, low), high)
    if isinstance(domain, Integer):
        return min(max(round(value), math.ceil(low)), math.floor(high))
    tick = round(value / _grain(value))
    for steps in (tick, tick - 1, tick + 1):
        near = float(f"{steps * _grain(value):.3g}")
        if domain.contains(near) and within_factor(old, near, max_factor):
            return near
    return value


def _grain(value: float) -> float:
    """The unit of the third significant digit."""
    return float(10.0 ** (math.floor(math.log10(max(abs(value), SMALLEST))) - 2)) if value else 1.0


# --------------------------------------------------------------------------------------------------------------- TPE
def _study(ledger: Ledger, seed: int) -> optuna.Study | None:
    """An Optuna study that knows every measured configuration inside the present space; null below `FEWEST_TOLD`.

    A configuration is told by its mean, corrected for the seeds it was run on (`ledger.corrected_means`); failed ones
    are told as failed, never as a number.  TPE looks at finished trials only, so keeping away from failures is the
    ledger's task.
    """
    told = ledger.inside()[-MOST_TOLD:]
    if sum(loss is not None for _, loss in told) < FEWEST_TOLD:
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed), direction="minimize")
    distributions = {key: _distribution(domain) for key, domain in ledger.space.domains.items()}
    study.add_trials([_told(config, loss, distributions) for config, loss in told])
    return study


def _told(
    config: Mapping[str, Value], loss: float | None, distributions: Mapping[str, Any]
) -> optuna.trial.FrozenTrial:
    import optuna

    state = optuna.trial.TrialState.FAIL if loss is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, value=loss, params=dict(config), distributions=dict(distributions))


def _distribution(domain: Domain) -> Any:
    import optuna

    if isinstance(domain, Categorical):
        return optuna.distributions.CategoricalDistribution(domain.choices)
    if isinstance(domain, Integer):
        return optuna.distributions.IntDistribution(domain.low, domain.high, log=domain.scale == "log")
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.scale == "log")


def _draw(ledger: Ledger, study: optuna.Study | None, keys: list[str], rng: random.Random) -> dict[str, Value]:
    """Values for the keys, by TPE over them with the others fixed at the branch's; uniform while there is no study."""
    if study is None:
        return {key: _uniform(ledger, key, rng) for key in keys}
    import optuna

    seed = rng.randrange(2**31)
    fixed = {key: ledger.branch[key] for key in ledger.space if key not in keys}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=0, constant_liar=False)
        study.sampler = optuna.samplers.PartialFixedSampler(fixed, tpe)
        trial = study.ask({key: _distribution(ledger.space[key]) for key in keys})
    return {key: trial.params[key] for key in keys}


def _uniform(ledger: Ledger, key: str, rng: random.Random) -> Value:
    domain = ledger.space[key]
    return rng.choice(domain.choices) if isinstance(domain, Categorical) else domain.from_unit(rng.random())


# ------------------------------------------------------------------------------------------------- words and numbers
def _hypothesis(ledger: Ledger, found: Candidate, number: int) -> Hypothesis:
    return Hypothesis(
        id=f"h{number}",
        statement=f"{_change_in_words(ledger, found.overrides)}: {found.reason}",
        mechanism=" ".join(ledger.trend_in_words(key) for key in found.overrides),
        source=SOURCE,
        overrides=dict(found.overrides),
        prediction=_predict(ledger, found),
    )


def _change_in_words(ledger: Ledger, overrides: Mapping[str, Value]) -> str:
    """For example `raise optimizer.lr from 0.003 to 0.011 and set model.act from 'relu' to 'gelu'`."""
    return " and ".join(
        f"{_verb(ledger.branch[key], value)} {key} from {shown(ledger.branch[key])} to {shown(value)}"
        for key, value in overrides.items()
    )


def _verb(old: Value, new: Value) -> str:
    if isinstance(old, (bool, str)) or isinstance(new, (bool, str)) or old is None or new is None:
        return "set"
    return "raise" if new > old else "lower"


def _predict(ledger: Ledger, found: Candidate) -> Prediction:
    """Predicted gain, its 80 % interval and keep probability, from the findings and the noise alone.

    Gain: for each key the mean gain of single-key findings in the same direction (or to the same choice), weighted by
    closeness of where they began and ended, shrunken towards 0 by `SHRINKAGE` findings without effect; summed over
    keys, so interactions are not covered.  Probability: keep rate of the findings that changed one key, or more than
    one, as this does, weighted by likeness (others at `ANY_WEIGHT`) and age (`HALF_LIFE`); smoothed by a Beta prior
    (`PRIOR_KEEP`, `PRIOR_WEIGHT`), times the estimated probability that the runs do not fail.  Never 0 or 1.

    On simulated tasks (40 searches of 60 findings) the Brier score was 0.149, that of the overall keep rate, known only
    in hindsight, 0.160: informative, but little so.
    """
    gain = sum(_predicted_gain(ledger, key, value) for key, value in found.overrides.items())
    kept, weight = PRIOR_KEEP * PRIOR_WEIGHT, PRIOR_WEIGHT
    for age, finding in enumerate(reversed(ledger.findings)):
        if (len(finding.hypothesis.overrides) > 1) == (len(found.overrides) > 1):
            closeness = max(ANY_WEIGHT, ledger.similarity(finding, found.overrides)) * 0.5 ** (age / HALF_LIFE)
            weight += closeness
            kept += closeness * finding.kept
    probability = kept / weight * (1.0 - ledger.failure_probability(found.overrides))
    below, above = _likely_errors(ledger)
    return Prediction(gain=gain, probability=min(max(probability, 0.01), 0.99), low=gain + below, high=gain + above)


def _likely_errors(ledger: Ledger) -> tuple[float, float]:
    """How far a measured gain is likely to lie from the predicted one: the quantiles at `TAIL` and 1 - `TAIL`.

    They are those of the errors of the sampler's own earlier predictions, the newest counting most (`HALF_LIFE`), mixed
    with a normal prior of spread `PRIOR_SPREAD` that counts as `PRIOR_ERRORS` of them.  The prediction itself is never
    outside.  Errors hold the noise of one or two seeds as well as the effect, which is what an interval of the measured
    gain has to hold.  On simulated tasks (18 searches) 82 % of the measured gains lay inside: 74 % of the first 15 of a
    search, 85 % of those after them.
    """
    earlier = [
        one.gain - one.hypothesis.prediction.gain
        for one in ledger.findings
        if one.gain is not None and one.hypothesis.source == SOURCE
    ][-ERRORS:]
    normal = statistics.NormalDist()
    errors = [(error, 0.5 ** (age / HALF_LIFE)) for age, error in enumerate(reversed(earlier))]
    for step in range(1, 20):
        errors.append((PRIOR_SPREAD * ledger.briefing.gain_sd * normal.inv_cdf(step / 20), PRIOR_ERRORS / 19))
    return min(_quantile(errors, TAIL), 0.0), max(_quantile(errors, 1.0 - TAIL), 0.0)


def _quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """The smallest value that has at least this share of the weight at or below it."""
    ordered = sorted(weighted)
    wanted = share * sum(weight for _, weight in ordered)
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= wanted:
            return value
    return ordered[-1][0]


def _predicted_gain(ledger: Ledger, key: str, value: Value) -> float:
    total = weight = 0.0
    for step in ledger.steps:
        if step.key == key and step.gain is not None:
            closeness = ledger.closeness(key, step.before, step.after, value)
            total += closeness * step.gain
            weight += closeness
    return total / (weight + SHRINKAGE)
