"""Numbers of people -> the bins of the profile schema, fitted on the training users.

Until the users are split, the label of a number is the number itself, as a text.
"""

from collections.abc import Iterable

from mmprofile.errors import UserError
from mmprofile.profile.schema import Attribute, Profile, Schema


def check_numbers(schema: Schema, columns: set[str]) -> None:
    """Refuse quantiles of numbers that nobody has.

    Args:
        schema: what was asked for.
        columns: the attributes that a file has labels of.

    Raises:
        UserError: an attribute has quantiles, and neither labels nor a rule.
    """
    for attribute in schema.attributes:
        if not attribute.is_fitted and attribute.rule is None and attribute.name not in columns:
            raise UserError(f"there are no labels of {attribute.name}, so it has no quantiles: give it labels or edges")


def binned(schema: Schema, labels: dict[str, Profile], train: Iterable[str]) -> tuple[Schema, dict[str, Profile]]:
    """Return the schema with the bins of its numbers, and the labels with bins for numbers.

    Args:
        schema: what was asked for.
        labels: user -> profile, with numbers as :func:`datamodules.labels.as_label` gives them, or bins.
        train: users of the training split; bins and what they stand for are fitted on them alone.

    Raises:
        UserError: the training users' numbers do not give two bins.
    """
    train, labels = list(train), {user: dict(profile) for user, profile in labels.items()}
    attributes = []
    for attribute in schema.attributes:
        if attribute.kind == "number":
            numbers = {
                user: float(profile[attribute.name][0])
                for user, profile in labels.items()
                if profile.get(attribute.name) and profile[attribute.name][0] not in attribute.values
            }
            attribute = attribute.fitted([numbers[user] for user in train if user in numbers])
            for user, number in numbers.items():
                labels[user][attribute.name] = (attribute.bin(number),)
        attributes.append(attribute)
    return Schema(schema.name, attributes), labels


def fewer_bins(asked: Attribute, fitted: Attribute) -> str | None:
    """Return a line on a number that has fewer bins than were asked for."""
    if asked.quantiles is None or len(fitted.values) == asked.quantiles:
        return None
    return (
        f"{asked.name}: {len(fitted.values)} bins instead of {asked.quantiles}, because many training users have the same "
        f"number: {'; '.join(fitted.values)}"
    )
