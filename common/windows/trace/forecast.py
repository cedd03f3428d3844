"""What will a free that is about to begin unload?"""

from __future__ import annotations

from ...model import Outcome
from ..loader.lists import Entry, Loader
from ..loader.unload import World
from ..model import Dll, LoaderRule
from ..plan import plan_once
from ..state import WindowsExamination
from .events import DllInstance
from .operation import Prediction


class Forecast:
    """Predict the frees of one process."""

    def __init__(self, rule: LoaderRule) -> None:
        self._rule = rule

    def predict(
        self,
        examined: WindowsExamination,
        loader: Loader,
        world: World,
        entry: Entry,
        *,
        exiting: bool,
        within: bool,
    ) -> Prediction:
        """Predict a free of a DLL, while the process is ``exiting``, or ``within`` another free of its thread."""
        if exiting:
            return Prediction(Outcome.EARLY_RETURN, "shutdown")
        plan = plan_once(examined, loader, world, entry)
        if within and self._rule is not LoaderRule.WIN8 and plan.refusal is None:
            # The count goes down at once; what has died of it goes when the outer call unloads.
            return Prediction(Outcome.DEFERRED, at_least=plan.at_least, keeps=plan.keeps)
        goes = tuple(map(_instance_of_dll, plan.unloads))
        listed = [each for each in plan.unloads if each.base in plan.detached and each.entry in loader.entries]
        detaches = tuple(loader.entries[each.entry] for each in listed)
        return Prediction(plan.outcome, plan.refusal, goes, detaches, plan.at_least, plan.keeps)


def _instance_of_dll(dll: Dll) -> DllInstance:
    return DllInstance(dll.name, dll.path, dll.entry, dll.base)
