"""What will a free unload?"""

from __future__ import annotations

from ...model import Outcome
from ..loader.lists import LdrEntry, Loader
from ..loader.unload import ImportGraph
from ..model import LoaderRule
from ..plan import plan_once
from ..state import WindowsExamination
from .call import FreePrediction
from .snapshot import instance_of


class FreePredictor:
    """Predicts the frees of one process."""

    def __init__(self, rule: LoaderRule) -> None:
        self._rule = rule

    def predict(
        self,
        examined: WindowsExamination,
        loader: Loader,
        graph: ImportGraph,
        entry: LdrEntry,
        *,
        exiting: bool,
        within: bool,
    ) -> FreePrediction:
        """Predict a free of a DLL, while the process is ``exiting``, or ``within`` another free of its thread."""
        if exiting:
            return FreePrediction(Outcome.NO_EFFECT, "process-exiting")
        plan = plan_once(examined, loader, graph, entry)
        if within and self._rule is not LoaderRule.WIN8 and plan.refusal is None:
            # The count is lowered at once; DLLs whose count becomes 0 are unloaded by the outer call.
            return FreePrediction(Outcome.DEFERRED, may_unload_more=plan.may_unload_more, kept=plan.kept)
        doomed = [loader.entries[each.ldr_entry] for each in plan.unloads]
        unloads = tuple(map(instance_of, doomed))
        get_process_detach = tuple(each for each in doomed if each.base in plan.gets_process_detach)
        return FreePrediction(plan.outcome, plan.refusal, unloads, get_process_detach, plan.may_unload_more, plan.kept)
