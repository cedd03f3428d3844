"""What stands in for typing, enum and functools, whose import takes as long as an answer?

A type checker sees the real ones.  At run time these do the same, as far as it is used here, and import nothing: the
real ones take 5 ms of the shell's 20, and making forty named tuples and ten enumerations with them 4 ms more.
"""

from __future__ import annotations

__all__ = ["Enum", "Flag", "NamedTuple", "Protocol", "cache", "cached_property"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import Enum, Flag
    from functools import cache, cached_property
    from typing import NamedTuple, Protocol
else:
    from operator import itemgetter

    class _NamedTupleType(type):
        """Makes a class with annotated members a tuple whose items have their names."""

        def __new__(cls, name, bases, namespace):
            """Replace the members by properties."""
            fields = tuple(namespace.get("__annotations__", ()))
            if not fields:
                return type.__new__(cls, name, bases, namespace)  # it adds methods to a named tuple, or is empty
            defaults = {field: namespace[field] for field in fields if field in namespace}
            namespace.update({field: property(itemgetter(index)) for index, field in enumerate(fields)})
            namespace.update(_fields=fields, _field_defaults=defaults, __slots__=())
            namespace.update(_size=len(fields), _defaults=tuple(defaults.values()))
            made = type.__new__(cls, name, bases, namespace)
            if len(fields) > 1:
                made._in_order = itemgetter(*fields)
            return made

    class NamedTuple(tuple, metaclass=_NamedTupleType):
        """As ``typing.NamedTuple``."""

        __slots__ = ()
        _fields = _defaults = ()
        _field_defaults = {}  # noqa: RUF012 - as typing's, and nobody changes it
        _size = 0

        def __new__(cls, *values, **named):
            """Take items by position or by name."""
            if named:
                values = cls._in_order_of_names(values, named)
            elif len(values) != cls._size:
                values += cls._defaults[len(values) - cls._size :]
                if len(values) != cls._size:
                    raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}, not {len(values)} items")
            return tuple.__new__(cls, values)

        @classmethod
        def _in_order_of_names(cls, values, named):
            """Give all items, those that are not given by default."""
            if values:
                first = dict(zip(cls._fields, values))
                if len(first) < len(values) or not named.keys().isdisjoint(first):
                    raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}, each once")
                named = {**first, **named}
            found = {**cls._field_defaults, **named}
            try:
                items = cls._in_order(found)
            except KeyError as error:
                raise TypeError(f"{cls.__name__} lacks {error}") from None
            if len(found) > cls._size:
                raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}, not {', '.join(named)}")
            return items

        @classmethod
        def _in_order(cls, found):
            return tuple(found[name] for name in cls._fields)

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={item!r}' for name, item in self._asdict().items())})"

    class _EnumType(type):
        """Makes each public constant of a class its only object with that value."""

        def __new__(cls, name, bases, namespace):
            """Replace the constants by objects."""
            values = {k: v for k, v in namespace.items() if k[0] != "_" and not hasattr(v, "__get__")}
            made = type.__new__(cls, name, bases, namespace)
            made._members = {}
            for key, value in values.items():
                setattr(made, key, made._add(key, value))
            return made

        def _add(cls, name, value):
            member = object.__new__(cls)
            member.name, member.value = name, value
            return cls._members.setdefault(value, member)

        def __call__(cls, value):
            if value not in cls._members:
                raise ValueError(f"{value!r} is not a valid {cls.__name__}")
            return cls._members[value]

        def __iter__(cls):
            return iter(cls._members.values())

        def __len__(cls):
            return len(cls._members)

    class Enum(metaclass=_EnumType):
        """As ``enum.Enum``."""

        def __reduce__(self):
            return type(self), (self.value,)

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __str__(self):
            return f"{type(self).__name__}.{self.name}"

    class _FlagType(_EnumType):
        """Makes a combination of members when it is first asked for."""

        def __call__(cls, value):
            return cls._members[value] if value in cls._members else cls._add(None, value)

    class Flag(Enum, metaclass=_FlagType):
        """As ``enum.Flag``, its values written down."""

        def __or__(self, other):
            return type(self)(self.value | other.value)

        def __and__(self, other):
            return type(self)(self.value & other.value)

        def __contains__(self, other):
            return self.value & other.value == other.value

        def __bool__(self):
            return self.value != 0

    class Protocol:
        """As ``typing.Protocol``."""

    def cache(function):
        """Remember results, as ``functools.cache`` does, of a function that takes its arguments by position."""
        results = {}

        def remembered(*arguments):
            if arguments not in results:
                results[arguments] = function(*arguments)
            return results[arguments]

        remembered.cache_clear = results.clear
        return remembered

    class cached_property:
        """Compute an attribute when it is first asked for, as ``functools.cached_property`` does."""

        def __init__(self, function):
            self._function = function
            self.__doc__ = function.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._function(instance)
            return value
