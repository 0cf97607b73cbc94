"""`reid match`: who is the same person in several pictures."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reid_index.errors import UsageError

from .extractor_options import make_preprocess, preprocess_options
from .paths import PATH
from .progress import progress_bar
from .sources import extraction_options

if TYPE_CHECKING:
    from tqdm import tqdm

    from reid_index.evaluation.decide import Distances, Rule

    from .crowd import Assembly, Crowd, Member
    from .match_formats import Pair

_TOGETHER = 1000
"""Lines that are printed at once."""


@click.command(name="match", short_help="Decide who is the same person in several PICTURES.")
@click.argument("pictures", nargs=-1, required=True, type=PATH)
@click.option(
    "--boxes",
    type=PATH,
    help="The people in the pictures: COCO JSON, MOTChallenge text, or CSV (file, x, y, w, h) "
    "[default: a picture is one person].",
)
@click.option(
    "--distance", type=click.Choice(["cosine", "euclidean"]), default="cosine", show_default=True
)
@click.option(
    "--threshold",
    type=float,
    metavar="T",
    help="The same person: at a distance of at most T [default: 0.2 for cosine].",
)
@click.option(
    "--similarity", type=float, metavar="S", help="The same as --threshold 1 − S, for cosine."
)
@click.option(
    "--nearest",
    type=int,
    metavar="N",
    help="The same person: each one's N nearest in other pictures.",
)
@click.option(
    "--pair",
    "asked",
    type=str,
    nargs=2,
    multiple=True,
    metavar="I:J K:L",
    help="Only person J of picture I and person L of picture K. Can be given again.",
)
@click.option("--only-same", is_flag=True, help="Leave out pairs of different people.")
@click.option("--groups", is_flag=True, help="People in groups, each of one person, not pairs.")
@click.option("--matrix", type=PATH, help="All distances, too, in a .npy, .csv or .parquet file.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl", "csv", "json"]),
    default="table",
    show_default=True,
)
@click.option(
    "--extractor", default=None, metavar="NAME", help="See `reid extractors` [default: trained]"
)
@click.option("--weights", type=PATH, help="The extractor's model file.")
@preprocess_options
@extraction_options
def command(
    pictures: tuple[Path, ...],
    boxes: Path | None,
    distance: str,
    threshold: float | None,
    similarity: float | None,
    nearest: int | None,
    asked: tuple[tuple[str, str], ...],
    only_same: bool,
    groups: bool,
    matrix: Path | None,
    form: str,
    extractor: str | None,
    weights: Path | None,
    device: str,
    batch_size: int,
    workers: int | None,
    strict: bool,
    **preprocess: Any,
) -> None:
    """Decide who is the same person in several PICTURES: picture files, or folders of them.

    Pictures are counted from 1 in the order given, people from 1 in the order of their boxes.
    """
    from extractors import DEFAULT, open_extractor
    from reid_index.evaluation.decide import Distances

    from .crowd import assemble, embed

    rule = _rule(distance, threshold=threshold, similarity=similarity, nearest=nearest)
    _refuse_clashing(rule, groups=groups, only_same=only_same, is_asked=bool(asked))
    _refuse_matrix(matrix)
    assembly = assemble(pictures, boxes, strict=strict)
    wanted = [_people(pair, assembly) for pair in asked]
    opened = open_extractor(
        extractor or DEFAULT,
        weights=weights,
        preprocess=make_preprocess(**preprocess),
        device=device,
    )
    crowd = embed(assembly, opened, batch_size=batch_size, workers=workers, strict=strict)
    _refuse_unread(wanted, crowd)
    question = _Question(
        crowd=crowd,
        distances=Distances(
            crowd.vectors, [member.picture for member in crowd.members], distance=distance
        ),
        rule=rule,
        form=form,
        about={
            "extractor": opened.fingerprint.name,
            "distance": distance,
            "threshold": rule.threshold,
            "nearest": rule.nearest,
            "root": str(assembly.source.root),
            "pictures": assembly.pictures,
            "skipped": crowd.skipped,
        },
    )
    # Before the file, so that one that cannot be written does not cost the answer.
    if groups:
        _print_groups(question)
    else:
        _print_pairs(question, wanted, only_same=only_same)
    if matrix is not None:
        from .matrix import write_matrix

        with progress_bar(len(crowd.members), unit="person") as bar:
            write_matrix(matrix, question.distances, crowd.members, progress=bar.update)


def _rule(
    distance: str, *, threshold: float | None, similarity: float | None, nearest: int | None
) -> "Rule":
    """What the options decide by. Raises UsageError."""
    from reid_index.evaluation.decide import make_rule

    given = {"--threshold": threshold, "--similarity": similarity, "--nearest": nearest}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} decide in different ways: give one of them")
    if similarity is not None:
        if distance != "cosine":
            raise UsageError(f"--similarity belongs to cosine: give a --threshold for {distance}")
        if not -1 <= similarity <= 1:
            raise UsageError(f"--similarity is from -1 to 1, not {similarity}")
        threshold = 1 - similarity
    return make_rule(distance, threshold, nearest)


def _refuse_clashing(rule: "Rule", *, groups: bool, only_same: bool, is_asked: bool) -> None:
    if groups and rule.nearest is not None:
        raise UsageError(
            "--groups needs a --threshold: --nearest takes N for everybody, however far they are"
        )
    if groups and (only_same or is_asked):
        raise UsageError("--groups has people, not pairs: leave out --only-same and --pair")


def _refuse_matrix(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() not in (".npy", ".csv", ".parquet"):
        raise UsageError(f"--matrix {path}: a .npy, .csv or .parquet file, please")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--matrix {path}: there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise UsageError(f"--matrix {path}: that is a folder; name the file to write")


def _people(pair: tuple[str, str], assembly: "Assembly") -> "tuple[Member, Member]":
    """The two people of --pair. Raises UsageError."""
    one, other = (_person(address, assembly) for address in pair)
    if one.picture == other.picture:
        raise UsageError(f"--pair {' '.join(pair)}: people of one picture are different people")
    return one, other


def _person(address: str, assembly: "Assembly") -> "Member":
    match = re.fullmatch(r"([1-9][0-9]{0,8}):([1-9][0-9]{0,8})", address)
    if match is None:
        raise UsageError(f"--pair {address!r}: PICTURE:POSITION, please, both from 1, as in 2:1")
    picture, position = map(int, match.groups())
    if picture > assembly.pictures:
        raise UsageError(f"--pair {address}: there are {assembly.pictures:,} pictures")
    people = [member for member in assembly.members if member.picture == picture]
    if position > len(people):
        raise UsageError(f"--pair {address}: people in picture {picture}: {len(people)}")
    return people[position - 1]


def _refuse_unread(wanted: "Iterable[tuple[Member, Member]]", crowd: "Crowd") -> None:
    from reid_index.errors import UnreadableImage

    for member in chain.from_iterable(wanted):
        if member not in crowd.members:
            raise UnreadableImage(
                f"{member.source}: person {member.picture}:{member.position} of --pair cannot be "
                "read: nothing is known of them"
            )


@dataclass(frozen=True, kw_only=True)
class _Question:
    """Who is compared, how it is decided, and as what it is printed. about: for JSON."""

    crowd: "Crowd"
    distances: "Distances"
    rule: "Rule"
    form: str
    about: dict[str, Any]


def _print_pairs(
    question: _Question, wanted: "Sequence[tuple[Member, Member]]", *, only_same: bool
) -> None:
    """The pairs asked for, or all; how many there were on standard error."""
    from .formats import counted
    from .match_formats import pair_text

    compared = same = 0

    def told() -> "Iterator[Pair]":
        nonlocal compared, same
        for pair in _asked(question, wanted) if wanted else _all_pairs(question):
            compared += 1
            same += pair.same
            if pair.same or not only_same:
                yield pair

    waiting: list[str] = []
    for piece in pair_text(
        question.form, told(), members=question.crowd.members, about=question.about
    ):
        waiting.append(piece)
        if len(waiting) == _TOGETHER:
            _print("".join(waiting))
            waiting.clear()
    _print("".join(waiting))
    pairs = counted(compared, "pair")
    _sum_up(question, f"{pairs}, {same:,} of them of one person")


def _all_pairs(question: _Question) -> "Iterator[Pair]":
    from reid_index.evaluation.decide import decide

    from .match_formats import Pair

    members = question.crowd.members
    with _bar(len(members)) as bar:
        for person, one in enumerate(members):
            decided = decide(question.distances, question.rule, person)
            columns = (decided.others, decided.distance, decided.same)
            for other, distance, same in zip(*(c.tolist() for c in columns), strict=True):
                yield Pair(one, members[other], distance, same)
            bar.update(1)


def _asked(question: _Question, wanted: "Sequence[tuple[Member, Member]]") -> "Iterator[Pair]":
    from reid_index.evaluation.decide import decide

    from .match_formats import Pair

    rows = {member: row for row, member in enumerate(question.crowd.members)}
    for one, other in wanted:
        a, b = rows[one], rows[other]
        if question.rule.nearest is None:
            a, b = sorted((a, b))  # a threshold decides the same of both
        decided = decide(question.distances, question.rule, a)
        place = decided.others.tolist().index(b)
        yield Pair(one, other, float(decided.distance[place]), bool(decided.same[place]))


def _print_groups(question: _Question) -> None:
    from reid_index.evaluation.decide import find_pairs, group_people

    from .formats import counted
    from .match_formats import group_text

    members = question.crowd.members
    with _bar(len(members)) as bar:
        pairs = find_pairs(question.distances, question.rule, progress=bar.update)
    groups = group_people(pairs, [member.picture for member in members])
    _print(group_text(question.form, members, groups.tolist(), about=question.about))
    apart = int((groups[pairs.a] != groups[pairs.b]).sum())
    if apart:
        click.echo(
            f"{counted(apart, 'pair')} within the threshold were not joined: a group has nobody "
            "twice from one picture",
            err=True,
        )
    _sum_up(question, counted(int(groups.max()) + 1, "group"))


def _bar(people: int) -> "tqdm[Any]":
    """None where lines of the answer run over the same screen."""
    bar = progress_bar(people, unit="person")
    bar.disable = bar.disable or sys.stdout.isatty()
    return bar


def _print(text: str) -> None:
    # With color off, click would cut escape codes out of file names in the data.
    click.echo(text, nl=False, color=True)


def _sum_up(question: _Question, found: str) -> None:
    from .formats import counted

    people = len(question.crowd.members)
    pictures = len({member.picture for member in question.crowd.members})
    rule = question.rule
    distance = question.distances.metric
    decided = (
        f"at {distance} distances up to {rule.threshold:.6g}"
        if rule.nearest is None
        else f"by the {rule.nearest} nearest, {distance}"
    )
    who = f"{people:,} {'person' if people == 1 else 'people'}"
    click.echo(f"{who} in {counted(pictures, 'picture')}: {found} ({decided})", err=True)
