"""A data set's labels in their order, from the forms in which data sets give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .cells import name_of, rows_of


def label_list(labels: Any) -> list[str]:
    """The name of each label: the i-th is that of label i.

    Args:
        labels: names in label order (a list, an array, a pandas Series or Index); or a mapping from
            name to label (torchvision's `class_to_idx`, `label2id`); or from label to name
            (`id2label`, whose keys are strings once it has been JSON: they count as numbers).

    Raises:
        TypeError: something else, or a name that is neither text nor a whole number.
        ValueError: no label, an empty name, labels that are not 0, 1, …, C-1, a mapping that may be
            meant either way.
    """
    if isinstance(labels, (str, bytes)):
        raise TypeError(f"labels must be a list of names or a mapping, got the string {labels!r}")
    if isinstance(labels, Mapping):
        labels = in_label_order(labels)
    elif not isinstance(labels, Iterable):
        raise TypeError(
            f"labels must be a list of names or a mapping, got {type(labels).__name__}; "
            f"ImageFolder has them as .class_to_idx, a Hugging Face ClassLabel as .names"
        )
    names = []
    for label, value in enumerate(rows_of(labels)):
        try:
            name = name_of(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"label {label}: {error}") from None
        if not name:
            raise ValueError(f"label {label} is {value!r}, which is not a name")
        names.append(name)
    if not names:
        raise ValueError("labels is empty; give the name of at least one class")
    return names


def in_label_order(mapping: Mapping[Any, Any]) -> list[Any]:
    """The names in a mapping from or to labels, in label order.

    A mapping whose values are all None is the list of its keys (`dict.fromkeys`).

    Raises:
        TypeError: neither its keys nor its values are numbers.
        ValueError: they are not 0, 1, …, C-1, or both may be the labels.
    """
    if not mapping:
        raise ValueError("labels is empty; give the name of at least one class")
    if all(value is None for value in mapping.values()):
        return list(mapping)
    pairs = list(mapping.items())
    from_label = _numbers([key for key, _ in pairs])
    to_label = _numbers([value for _, value in pairs])
    if from_label and to_label:
        # Text that looks like a number is a name if the other side holds real numbers.
        keys_are_text = all(isinstance(key, str) for key, _ in pairs)
        values_are_text = all(isinstance(value, str) for _, value in pairs)
        if keys_are_text != values_are_text:
            from_label, to_label = (None, to_label) if keys_are_text else (from_label, None)
        elif from_label != to_label:
            raise ValueError(
                f"the mapping {_first(mapping)} has numbers as keys and as values, so it may be "
                f"read both ways; give the names as a list in label order"
            )
    if from_label:
        return _sorted_by(from_label, [value for _, value in pairs])
    if to_label:
        return _sorted_by(to_label, [key for key, _ in pairs])
    raise TypeError(
        f"the mapping {_first(mapping)} has labels (0, 1, …) neither as keys nor as values; give "
        f"the names as a list in label order"
    )


def _numbers(values: list[Any]) -> list[int] | None:
    numbers = []
    for value in values:
        if isinstance(value, str):
            if not value.strip().isdecimal():
                return None
            numbers.append(int(value))
        else:
            try:
                numbers.append(int(name_of(value)))
            except (TypeError, ValueError):
                return None
    return numbers


def _sorted_by(labels: list[int], names: list[Any]) -> list[Any]:
    by_label: dict[int, Any] = {}
    for label, name in zip(labels, names, strict=True):
        if label in by_label:
            raise ValueError(f"label {label} is both {by_label[label]!r} and {name!r}")
        by_label[label] = name
    absent = [label for label in range(len(by_label)) if label not in by_label]
    if absent:
        outside = [label for label in sorted(by_label) if label >= len(by_label) or label < 0]
        raise ValueError(
            f"labels must be 0 to {len(by_label) - 1}, one a class: label {absent[0]} is absent, "
            f"and there is a label {outside[-1]} ({by_label[outside[-1]]!r}). A model has a column "
            f"for each label; give the names as a list if the order of these numbers is meant"
        )
    return [by_label[label] for label in range(len(by_label))]


def _first(mapping: Mapping[Any, Any]) -> str:
    key, value = next(iter(mapping.items()))
    return f"{{{key!r}: {value!r}{', …' if len(mapping) > 1 else ''}}}"
