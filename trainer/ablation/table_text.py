"""One table of the ablation as Markdown: scores with intervals, each arm against its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainer.ablation.arm_results import ALL, NEW, ArmResults
from trainer.ablation.arms import CEILING, Table
from trainer.ablation.paper import PAPER, PAPER_ORDER
from trainer.ablation.seed_means import SeedMean
from trainer.scoring.metrics import METRICS
from trainer.scoring.paired import Paired

FILMS = ("f1_at_1", "f1_at_10", "f1_at_50", "rec_ratio")
OF_TEACHERS = ("recall_at_1", "recall_at_10", "recall_at_50")
"""Beside those where the teachers stand: one of them only ranks."""
WORDS = (
    *("perplexity", "dist_2", "dist_4", "within_dist_4"),
    *("words_per_response", "frequent_share", "word_entropy"),
)
RATIOS = ("f1_at_10", "f1_at_50")
"""Of which each arm is divided by the baseline, over all gold and over new items."""
WITH_PAPER = ("paper", "kgsf", "vectors")
WIDE = ("perplexity", "words_per_response", "word_entropy")
"""Metrics with one decimal."""
NONE = "-"
TITLES = {metric.name: metric.title for metric in METRICS}


def table_lines(table: Table, results: Sequence[ArmResults]) -> Iterator[str]:
    """The Markdown of one table: scores, the arms against the baseline, and their order."""
    films = (*FILMS, *(OF_TEACHERS if table.has_ceiling else ()))
    words = (*WORDS, *(it for it in table.shown if it not in WORDS))
    yield "Films, mean over the seeds (95 % interval):"
    yield ""
    yield from score_table(table, results, films, new=("f1_at_10",), paper=FILMS)
    yield ""
    yield "Words:"
    yield ""
    yield from score_table(table, results, words, paper=("perplexity", "dist_2", "dist_4"))
    yield ""
    yield from _ratio_table(table, results)
    if table.name in WITH_PAPER:
        yield ""
        yield from _order_lines(results)


def score_table(
    table: Table,
    results: Sequence[ArmResults],
    metrics: Sequence[str],
    *,
    new: Sequence[str] = (),
    paper: Sequence[str],
) -> Iterator[str]:
    """Scores over all gold, those of `new` over new items too, and those of the paper."""
    has_paper = table.name in WITH_PAPER
    titles = ["arm", "seeds", *(TITLES[it] for it in metrics)]
    titles += [f"new items: {TITLES[it]}" for it in new]
    titles += [f"paper: {', '.join(TITLES[it] for it in paper)}"] if has_paper else []
    yield from _header(titles)
    for arm in results:
        of_all, of_new = arm.means(ALL), arm.means(NEW)
        cells = [arm.name, str(len(arm.seeds)), *(_mean(it, of_all.get(it)) for it in metrics)]
        cells += [_mean(it, of_new.get(it)) for it in new]
        yield _row([*cells, *([_of_paper(arm.name, paper)] if has_paper else [])])


def _ratio_table(table: Table, results: Sequence[ArmResults]) -> Iterator[str]:
    base = next((arm for arm in results if arm.name == table.baseline), None)
    others = [arm for arm in results if arm.name not in (table.baseline, *CEILING)]
    if base is None or not others:
        yield f"Not compared yet: that needs a cell of {table.baseline}, and one of another arm."
        return
    views = {"": ALL, "new items: ": NEW}
    titles = [f"{note}{TITLES[it]}" for note in views for it in RATIOS]
    yield f"Each arm over {table.baseline}, paired: ratio (95 % interval), p of no difference:"
    yield ""
    differences = ("perplexity", *(["kl_dialogue"] * table.diverges))
    yield from _header(["arm", *titles, *(f"{TITLES[it]}: difference" for it in differences)])
    for arm in others:
        found = {view: arm.against(base, view) for view in views.values()}
        ratios = [_ratio(found[view].get(it)) for view in views.values() for it in RATIOS]
        compared = [_difference(it, found[ALL].get(it)) for it in differences]
        yield _row([arm.name, *ratios, *compared])


def _order_lines(results: Sequence[ArmResults]) -> Iterator[str]:
    """Arms by F1@10, ours beside the paper's."""
    found = {arm.name: arm.means(ALL).get("f1_at_10") for arm in results if arm.name in PAPER_ORDER}
    known = {name: mean.mean for name, mean in found.items() if mean is not None}
    ours = sorted(known, key=lambda name: known[name], reverse=True)
    papers = [name for name in PAPER_ORDER if name in known]
    yield f"By F1@10, the best first: {', '.join(ours) or NONE}."
    yield f"In the paper's Table 5: {', '.join(papers) or NONE}."


def _of_paper(arm: str, metrics: Sequence[str]) -> str:
    row = PAPER.get(arm)
    return NONE if row is None else ", ".join(number(it, row[it]) for it in metrics)


def _mean(metric: str, mean: SeedMean | None) -> str:
    if mean is None:
        return NONE
    if mean.low is None or mean.high is None:
        return number(metric, mean.mean)
    ends = f"{number(metric, mean.low)}-{number(metric, mean.high)}"
    return f"{number(metric, mean.mean)} ({ends})"


def _ratio(found: Paired | None) -> str:
    if found is None or found.ratio is None:
        return NONE
    low, high = found.ratio_low, found.ratio_high
    ends = NONE if low is None or high is None else f"{low:.2f}-{high:.2f}"
    return f"{found.ratio:.2f} ({ends}), {_p(found.p)}"


def _difference(metric: str, found: Paired | None) -> str:
    if found is None:
        return NONE
    digits = 1 if metric in WIDE else 3
    ends = f"{found.difference_low:+.{digits}f} to {found.difference_high:+.{digits}f}"
    return f"{found.difference:+.{digits}f} ({ends}), {_p(found.p)}"


def _p(p: float) -> str:
    return "p " + f"{p:.3f}".removeprefix("0")


def number(metric: str, value: float) -> str:
    """A score as tables have it: .063, 59.9; None is not a number."""
    if metric in WIDE:
        return f"{value:.1f}"
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.3f}"


def _header(titles: Sequence[str]) -> Iterator[str]:
    yield _row(titles)
    yield "|---|" + "---:|" * (len(titles) - 1)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
