"""How does a test examine a target of its own without asking a command?"""

from __future__ import annotations

from dlwhy.common.linux.state.examine import examine
from dlwhy.common.linux.state.process import GlibcProcess
from dlwhy.common.linux.state.verdict import GlibcExamination
from dlwhy.common.target import Target


def examination_of(target: Target) -> GlibcExamination:
    """Examine a glibc process."""

    def examine_glibc(process: GlibcProcess) -> GlibcExamination:
        return GlibcExamination.of(process)

    def refuse(*_: object) -> GlibcExamination:
        raise AssertionError("no musl")

    return examine(target, examine_glibc, refuse)[0]
