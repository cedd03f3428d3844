"""Which mangled names are short, and stand for long ones?"""

from __future__ import annotations


def doubling_cxx(levels: int) -> str:
    """Name a type whose demangled form doubles with each level, by back references."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    references = ["S_", *(f"S{digit}_" for digit in digits)]
    return "_Z1f1AIiiE" + "".join(f"S_I{references[level]}{references[level]}E" for level in range(1, levels + 1))


def doubling_rust(levels: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

    def number(value: int) -> str:
        text, value = "", value - 1
        while True:
            text, value = digits[value % 62] + text, value // 62
            if value == 0:
                return text + "_"

    body = "INvC1a1b"
    places: list[int] = []
    for _ in range(levels):
        place = len(body)
        body += f"TB{number(places[-1])}B{number(places[-1])}E" if places else "TllE"
        places.append(place)
    return f"_R{body}E"
