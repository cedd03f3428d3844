"""Is each row of the tables of what Windows refuses on a mapped file given as it is?"""

from __future__ import annotations

from typing import Optional

import pytest
from dlwhy.common.windows.model import Allowed, FileOperation, OpenFile, SectionUse
from dlwhy.common.windows.share_rules import FileUsage, check_operations

WINDOWS_7 = 7601
WINDOWS_10 = 19041

YES, NO, PROBABLY, DEPENDS = Allowed.YES, Allowed.NO, Allowed.PROBABLY, Allowed.DEPENDS
CANNOT_DELETE = (0xC0000121, 5)
DELETE_PENDING = (0xC0000056, 5)
SHARING_VIOLATION = (0xC0000043, 32)
USER_MAPPED_FILE = (0xC0000243, 1224)
INVALID_INFO_CLASS = (0xC0000003, 87)


def image(*, views: int = 1, sections: int = 0) -> SectionUse:
    return SectionUse(0x1000, True, sections, views, views, None, bool(views or sections))


def data(*, users: int = 1, writable: Optional[int] = 0) -> SectionUse:
    return SectionUse(0x2000, False, 0, users, users, writable, bool(users))


def opened(access: str = "R--", sharing: str = "r-d", *, is_open: bool = False, pending: bool = False) -> OpenFile:
    return OpenFile(0x3000, access, sharing, is_open, pending)


def verdicts(
    *sections: SectionUse,
    opens: tuple[OpenFile, ...] = (opened(),),
    complete: bool = True,
    build: Optional[int] = WINDOWS_10,
) -> dict[str, FileOperation]:
    return {operation.name: operation for operation in check_operations(FileUsage(sections, opens, complete, build))}


def check(found: dict[str, FileOperation], name: str, possible: Allowed, status: Optional[tuple[int, int]]) -> None:
    operation = found[name]
    got = (operation.status.ntstatus, operation.status.win32_error) if operation.status else None
    assert (operation.allowed, got) == (possible, status), operation.reason
    assert operation.reason
    assert ". " not in operation.reason


@pytest.mark.parametrize(
    ("name", "possible", "status"),
    [
        ("rename", YES, None),
        ("delete", NO, CANNOT_DELETE),
        ("posix-delete", NO, CANNOT_DELETE),
        ("overwrite", NO, SHARING_VIOLATION),
        ("truncate", NO, USER_MAPPED_FILE),
    ],
)
def test_a_mapped_image(name: str, possible: Allowed, status: Optional[tuple[int, int]]) -> None:
    check(verdicts(image()), name, possible, status)
    check(verdicts(image(), data()), name, possible, status)
    # A section that is open counts even without a view.
    check(verdicts(image(views=0, sections=1)), name, possible, status)
    # Even when every handle shares everything.
    check(verdicts(image(), opens=(opened("RWD", "rwd", is_open=True),)), name, possible, status)


def test_a_truncation_says_for_whom() -> None:
    """Whoever opens the file now meets another refusal than a handle that was open for writing before."""
    withheld = opened("R--", "r-d", is_open=True)
    shared = opened("RW-", "rwd", is_open=True)
    for found in (verdicts(image()), verdicts(image(), opens=(shared,)), verdicts(data(), opens=(withheld,))):
        reason = found["truncate"].reason
        assert "a handle that was opened for writing before" in reason
        assert "whoever opens it for writing now gets ERROR_SHARING_VIOLATION (32)" in reason
    assert "every handle that is open for writing, old or new" in verdicts(data(), opens=(shared,))["truncate"].reason
    assert "(32)" not in verdicts(data(), opens=(shared,))["truncate"].reason


def test_a_delete_names_the_exception_for_hard_links() -> None:
    assert "several hard links" in verdicts(image())["delete"].reason


@pytest.mark.parametrize(
    ("name", "possible", "status"),
    [
        ("rename", PROBABLY, None),
        ("delete", NO, CANNOT_DELETE),
        ("posix-delete", NO, CANNOT_DELETE),
        ("overwrite", YES, None),
        ("truncate", NO, USER_MAPPED_FILE),
    ],
)
def test_data_only(name: str, possible: Allowed, status: Optional[tuple[int, int]]) -> None:
    check(verdicts(data()), name, possible, status)


@pytest.mark.parametrize("writable", [1, None])
def test_a_writable_data_section(writable: Optional[int]) -> None:
    check(verdicts(data(writable=writable)), "overwrite", DEPENDS, None)


@pytest.mark.parametrize("name", ["rename", "delete", "posix-delete", "overwrite", "truncate"])
def test_what_is_only_cached_stands_in_no_way(name: str) -> None:
    check(verdicts(image(views=0), data(users=0)), name, YES, None)
    check(verdicts(), name, YES, None)


@pytest.mark.parametrize("name", ["rename", "delete", "posix-delete"])
def test_an_open_handle_that_withholds_deleting(name: str) -> None:
    withheld = (opened(), opened("R--", "r--", is_open=True))
    check(verdicts(image(), opens=withheld), name, NO, SHARING_VIOLATION)
    check(verdicts(data(), opens=withheld), name, NO, SHARING_VIOLATION)
    check(verdicts(opens=withheld), name, NO, SHARING_VIOLATION)


@pytest.mark.parametrize("name", ["overwrite", "truncate"])
def test_an_open_handle_that_withholds_writing(name: str) -> None:
    withheld = (opened("R--", "r-d", is_open=True),)
    check(verdicts(opens=withheld), name, NO, SHARING_VIOLATION)


def test_sharing_counts_only_while_a_handle_is_open() -> None:
    check(verdicts(image(), opens=(opened("R--", "r--", is_open=False),)), "rename", YES, None)


def test_an_open_for_attributes_alone_binds_nobody() -> None:
    check(verdicts(image(), opens=(opened("---", "---", is_open=True),)), "rename", YES, None)


@pytest.mark.parametrize("name", ["rename", "delete", "posix-delete", "overwrite", "truncate"])
def test_a_pending_delete_fails_every_open(name: str) -> None:
    check(verdicts(image(), opens=(opened(pending=True),)), name, NO, DELETE_PENDING)


def test_windows_before_posix_deletes() -> None:
    check(verdicts(image(), build=WINDOWS_7), "posix-delete", NO, INVALID_INFO_CLASS)
    check(verdicts(build=WINDOWS_7), "posix-delete", NO, INVALID_INFO_CLASS)
    check(verdicts(image(), build=14393), "posix-delete", NO, CANNOT_DELETE)
    check(verdicts(image(), build=None), "posix-delete", NO, CANNOT_DELETE)


def test_nothing_is_yes_while_openers_can_be_missing() -> None:
    for sections in ((image(),), (data(),), ()):
        for operation in verdicts(*sections, complete=False).values():
            assert operation.allowed is not YES
    assert "another opener can object" in verdicts(image(), complete=False)["rename"].reason
    # What is refused stays refused.
    check(verdicts(image(), complete=False), "delete", NO, CANNOT_DELETE)
