"""A PackedTable gives what a dict of lists gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from migrate.model.packed import PackedTable

# few different bytes, so that the bytes of two neighbours often look like a key
KEYS = st.binary(min_size=3, max_size=3).map(lambda raw: bytes(byte % 2 for byte in raw))
ROWS = st.binary(min_size=2, max_size=2).map(lambda raw: bytes(byte % 2 for byte in raw))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "replace"]), KEYS, ROWS), max_size=200)


@given(STEPS)
def test_is_a_dict_of_lists(steps: list[tuple[str, bytes, bytes]]) -> None:
    table = PackedTable(key=3, row=2)
    expected: dict[bytes, list[bytes]] = {}
    for step, key, row in steps:
        rows = expected.setdefault(key, [])
        if step == "add":
            rows.append(row)
            table.add(key, row)
        elif step == "remove":
            if row in rows:
                rows.remove(row)
            table.remove(key, row)
        elif len(rows) <= 1:
            rows[:] = [row]
            table.replace(key, row)
    pairs = [(key, row) for key, rows in expected.items() for row in rows]
    assert sorted(table) == sorted(pairs) and len(table) == len(pairs)
    for number in range(8):
        key = bytes(number >> place & 1 for place in range(3))
        assert table.rows(key) == expected.get(key, [])
        assert table.get(key) == next(iter(expected.get(key, [])), None)
        assert (key in table) is bool(expected.get(key))


@given(st.lists(st.binary(min_size=4, max_size=4)))
def test_is_a_set(keys: list[bytes]) -> None:
    table = PackedTable(4)
    for key in keys:
        if key not in table:
            table.add(key)
    assert sorted(key for key, _ in table) == sorted(set(keys))
