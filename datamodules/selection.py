"""Which reviews and users stay (section 3 of the paper), as Ibis expressions; every step is counted.

Also the split.
"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from datamodules.engine import Engine
from datamodules.options import Selection, Split
from datamodules.pseudonyms import Pseudonyms
from datamodules.yelp import Tables
from mmprofile.errors import UserError
from mmprofile.inputs.views import SPLITS


class Funnel:
    """Reviews, users and businesses left after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, int | str]] = []

    def count(self, step: str, reviews: ir.Table) -> None:
        """Count what is left after a step."""
        row = (
            reviews.aggregate(
                reviews=reviews.count(), users=reviews.user_id.nunique(), businesses=reviews.business_id.nunique()
            )
            .to_pyarrow()
            .to_pylist()[0]
        )
        self.steps.append({"step": step, **{key: int(value) for key, value in row.items()}})

    def add(self, step: str, users: int) -> None:
        """Add a step that is about users only."""
        self.steps.append({"step": step, "users": users})

    def table(self) -> str:
        """Return the steps as aligned text."""
        lines = [f"{'step':<58}{'reviews':>11}{'users':>10}{'businesses':>12}"]
        for row in self.steps:
            cells = [f"{row[key]:,}" if key in row else "" for key in ("reviews", "users", "businesses")]
            lines.append(f"{row['step']:<58}{cells[0]:>11}{cells[1]:>10}{cells[2]:>12}")
        return "\n".join(lines)

    def check(self) -> None:
        """Check that each step has left somebody.

        Raises:
            UserError: a step has left nobody; shows the steps before it.
        """
        for row in self.steps:
            if row["users"] == 0:
                before = "; ".join(f"{r['step']}: {r['users']}" for r in self.steps if r["users"])
                raise UserError(
                    f"no user is left after the step {row['step']!r}; users before it: {before or 'none'}: "
                    "lower the thresholds in data.prepare.selection, or check the raw data"
                )


def users_with(engine: Engine, name: str, reviews: ir.Table, least: int) -> ir.Table:
    """Return the reviews of users who have at least ``least`` of them; the users are stored as table ``name``."""
    if least <= 1:
        return reviews
    counts = reviews.group_by("user_id").aggregate(n=reviews.count())
    return reviews.semi_join(engine.table(name, counts.filter(counts.n >= least).select("user_id")), "user_id")


def candidates(engine: Engine, tables: Tables, chosen: Selection, funnel: Funnel) -> ir.Table:
    """Take steps 1 to 3 of the selection, before any photo is opened: each photo row counts as a photo.

    Returns:
        The candidates' reviews without date and text. ``tables`` is left without repeated review ids.

    Raises:
        UserError: nobody is left.
    """
    reviews = tables.reviews
    funnel.count("raw reviews", reviews)
    distinct = int(reviews.review_id.nunique().execute())
    total = funnel.steps[0]["reviews"]
    if distinct != total:
        reviews = _without_repeats(engine, tables)
        funnel.count("without repeated review ids", reviews)
    reviews = reviews.filter(reviews.words.between(max(chosen.min_words, 1), chosen.max_words))
    funnel.count(f"reviews of {max(chosen.min_words, 1)} to {chosen.max_words} words", reviews)
    reviews = users_with(engine, "frequent_users", reviews, chosen.min_reviews)
    funnel.count(f"users with {chosen.min_reviews} or more of them", reviews)
    if chosen.photo_reviews > 0:
        reviews = reviews.semi_join(tables.photos, "photo_key")
        reviews = users_with(engine, "shown_users", reviews, chosen.photo_reviews)
        funnel.count(f"reviews with a photo row, {chosen.photo_reviews} or more a user", reviews)
    funnel.check()
    return engine.table("candidates", reviews)


def only_some(engine: Engine, reviews: ir.Table, users: Sequence[str], funnel: Funnel) -> ir.Table:
    """Return the reviews of some users."""
    ids = pa.table({"user_id": users}, schema=pa.schema([("user_id", pa.string())]))
    reviews = engine.table("some_candidates", reviews.semi_join(engine.table("some_users", ids), "user_id"))
    funnel.count("some users with labels (data.prepare.source.users)", reviews)
    return reviews


def _without_repeats(engine: Engine, tables: Tables) -> ir.Table:
    """Keep the first of the reviews with one id, by user, business, date and text, also in ``tables``."""
    counts = tables.reviews.group_by("review_id").aggregate(n=tables.reviews.count())
    repeated = engine.table("repeated_ids", counts.filter(counts.n > 1).select("review_id"))
    copies = tables.full.semi_join(repeated, "review_id")
    columns = [copies[name] for name in ("user_id", "business_id", "date", "text")]
    copy = ibis.row_number().over(group_by=copies.review_id, order_by=columns)
    first = engine.table("first_copies", copies.mutate(copy=copy).filter(ibis._.copy == 0).drop("copy"))
    unique = tables.reviews.anti_join(repeated, "review_id")
    tables.reviews = engine.table("distinct_reviews", unique.union(first.select(unique.columns)))
    tables.full = tables.full.anti_join(repeated, "review_id").union(first.select(tables.full.columns))
    return tables.reviews


def wanted_photos(reviews: ir.Table, photos: ir.Table) -> list[str]:
    """Return the ids of the photos that the reviews can use."""
    ids = photos.semi_join(reviews, "photo_key").select("photo_id").distinct().to_pyarrow()
    return sorted(ids.column("photo_id").to_pylist())


def with_usable_photos(
    engine: Engine, reviews: ir.Table, usable: ir.Table, chosen: Selection, funnel: Funnel
) -> ir.Table:
    """Take step 3 again: now only photos that decode count.

    Raises:
        UserError: nobody is left.
    """
    if chosen.photo_reviews > 0:
        reviews = users_with(engine, "kept_users", reviews.semi_join(usable, "photo_key"), chosen.photo_reviews)
        funnel.count(f"reviews with a usable photo, {chosen.photo_reviews} or more a user", reviews)
    funnel.check()
    return engine.table("kept", reviews)


def totals_of(engine: Engine, rows: ir.Table, usable: ir.Table) -> dict[str, int]:
    """Count the reviews, the words, and the photos of each user, each photo once."""
    [totals] = engine.rows(rows.aggregate(reviews=rows.count(), words=rows.words.sum()))
    pairs = rows.select("user_id", "photo_key").distinct().inner_join(usable, "photo_key")
    return totals | {"user_photos": int(pairs.select("user_id", "photo_id").distinct().count().execute())}


def full_rows(rows: ir.Table, full: ir.Table, usable: ir.Table) -> ir.Table:
    """Return the rows with their dates, their texts and the ids of the photos of their ``photo_key``."""
    photos = usable.group_by("photo_key").aggregate(photo_ids=usable.photo_id.collect().sort())
    texts = full.select("review_id", "date", "text")
    complete = rows.inner_join(texts, "review_id").left_join(photos, "photo_key").drop("photo_key_right")
    return complete.mutate(photo_ids=complete.photo_ids.fill_null(ibis.literal([], type="array<string>")))


def split_users(users: Sequence[str], split: Split, names: Pseudonyms) -> dict[str, list[str]]:
    """Return the users of each split, in the order of :meth:`Pseudonyms.shuffled`.

    Raises:
        UserError: more users asked for than there are, or a split with a size above 0 would be empty.
    """
    order = names.shuffled(users, split.seed)
    wanted = [split.train, split.validation, split.test]
    if split.counted:
        sizes = [int(size) for size in wanted]
        if split.asked > len(order):
            raise too_many(split, len(order))
    else:
        # Rounded half up one after the other on the running total, so that fractions adding up to 1 use everybody.
        ends = [int(sum(wanted[: i + 1]) * len(order) + 0.5 + 1e-9) for i in range(3)]
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    for name, size, wish in zip(SPLITS, sizes, wanted, strict=True):
        if size == 0 and wish > 0:
            raise UserError(
                f"the split {name} would be empty: {len(order)} users are left after the selection, too few for {wanted}"
            )
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    return {name: order[start : start + size] for name, start, size in zip(SPLITS, starts, sizes, strict=True)}


def too_many(split: Split, left: int, lacking: str = "") -> UserError:
    """Return the error of a split that asks for more users than are left; ``lacking``: why they are so few."""
    return UserError(
        f"the split asks for {split.asked} users ({split.train} + {split.validation} + {split.test}), "
        f"but {left} are left after the selection{lacking}: "
        "lower data.prepare.split or the thresholds in data.prepare.selection"
    )
