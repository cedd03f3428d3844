"""How is a file damaged at random?"""

from __future__ import annotations

from hypothesis import strategies as st

DAMAGE = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8))),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, damage: list[tuple[float, bytes]]) -> bytes:
    """Overwrite bytes at fractions of the whole."""
    result = bytearray(data)
    for fraction, new in damage:
        place = int(fraction * len(data))
        result[place : place + len(new)] = new[: len(data) - place]
    return bytes(result)
